/** Alerts: those that fire on top, each in one row that is updated when it is resolved. */

import { element, firstOf, moment, oneLine, timeElement } from "./dom.js";

// Rows of alerts that do not fire.
const ROWS = 50;
// Alerts that fire: rows, and how many are known.
const FIRING_ROWS = 100;
const FIRING_KNOWN = 1000;
const SEVERITIES = [
  ["critical", /^(critical|fatal|emergency|error|high|p1|sev1)/i],
  ["warning", /^(warn|medium|moderate|p2|sev2)/i],
  ["info", /./],
];

export class AlertPanel {
  #list;
  #count;
  // By key, those that changed last are last.
  #firing = new Map();
  #others = new Map();
  // Key -> its row and the message that it shows.
  #rows = new Map();
  #taken = 0;
  #dirty = false;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#list = root.querySelector("ul");
    this.#count = root.querySelector(".count");
  }

  /** Take a message. */
  add(message) {
    this.#taken += 1;
    this.#dirty = true;
    const state = stateOf(message.payload);
    const key = state ? `alert ${message.payload.alert_id}` : `message ${this.#taken}`;
    this.#others.delete(key);
    if (state === "firing") {
      // One that is told again keeps its place.
      this.#firing.set(key, message);
      forgetOldest(this.#firing, FIRING_KNOWN);
    } else {
      this.#firing.delete(key);
      this.#others.set(key, message);
      forgetOldest(this.#others, ROWS);
    }
  }

  /** Forget all messages. */
  clear() {
    this.#firing.clear();
    this.#others.clear();
    this.#dirty = true;
  }

  /** Bring the rows up to date, touching only those that changed. */
  draw() {
    if (!this.#dirty) return;
    this.#dirty = false;
    const firing = this.#firing.size;
    this.#count.textContent = firing ? `${firing.toLocaleString()} firing` : "";
    const shown = [
      ...[...this.#firing].slice(-FIRING_ROWS).reverse(),
      ...[...this.#others].reverse(),
    ];
    this.#forgetRows(new Set(shown.map(([key]) => key)));
    shown.forEach(([key, message], place) => {
      const row = this.#row(key, message);
      const there = this.#list.children[place] ?? null;
      if (there !== row) this.#list.insertBefore(row, there);
    });
  }

  #forgetRows(wanted) {
    for (const [key, { row }] of this.#rows) {
      if (wanted.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
  }

  #row(key, message) {
    const known = this.#rows.get(key) ?? { row: element("li"), message: null };
    if (known.message !== message) {
      write(known.row, message);
      known.message = message;
      this.#rows.set(key, known);
    }
    return known.row;
  }
}

function forgetOldest(messages, most) {
  if (messages.size > most) messages.delete(messages.keys().next().value);
}

/** "firing" or "resolved"; undefined of an alert without such a state. */
function stateOf(payload) {
  const { alert_id: id, state } = payload ?? {};
  const named = typeof id === "string" || typeof id === "number";
  return named && (state === "firing" || state === "resolved") ? state : undefined;
}

function write(row, { payload, time }) {
  const said = String(firstOf(payload, "severity", "level", "priority") ?? "info");
  const [severity] = SEVERITIES.find(([, pattern]) => pattern.test(said)) ?? ["info"];
  const text = firstOf(payload, "message", "title", "description", "name") ?? oneLine(payload);
  const state = stateOf(payload);
  row.dataset.severity = severity;
  if (state) row.dataset.state = state;
  row.title = oneLine(payload, 2000);
  row.replaceChildren(
    element("strong", { class: "severity" }, said),
    ...(state ? [element("strong", { class: "state" }, state)] : []),
    element("span", { class: "text" }, String(text)),
    timeElement(time),
    ...(state ? [element("span", { class: "facts" }, facts(payload))] : []),
  );
}

/** The value, the bound it passed, and since when. */
function facts(payload) {
  const { value, threshold, started_at: started, resolved_at: resolved } = payload;
  return [
    typeof value === "number" && `value ${rounded(value)}`,
    typeof threshold === "number" && `threshold ${rounded(threshold)}`,
    Date.parse(started) && `since ${moment(Date.parse(started))}`,
    Date.parse(resolved) && `resolved ${moment(Date.parse(resolved))}`,
    typeof payload.reason === "string" && payload.reason.replaceAll("_", " "),
  ]
    .filter(Boolean)
    .join(" · ");
}

function rounded(value) {
  return Number(value.toPrecision(6));
}
