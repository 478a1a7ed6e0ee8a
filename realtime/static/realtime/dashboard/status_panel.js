/** System status: a card for each component of each host, with the latest of it. */

import { element, firstOf, timeElement } from "./dom.js";

const CARDS = 100;
const STATUSES = [
  ["ok", /^(ok|up|healthy|green)$/i],
  ["warning", /^(warn|warning|degraded|yellow)$/i],
];

export class StatusPanel {
  #cards;
  #latest = new Map();
  #dirty = false;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#cards = root.querySelector(".cards");
  }

  /** Take a message. */
  add({ payload, time }) {
    const name = [firstOf(payload, "component", "service", "name") ?? "system", payload?.host]
      .filter(Boolean)
      .join(" · ");
    if (!this.#latest.has(name) && this.#latest.size >= CARDS) return;
    this.#latest.set(name, { payload, time });
    this.#dirty = true;
  }

  /** Forget all components. */
  clear() {
    this.#latest.clear();
    this.#dirty = true;
  }

  /** Draw the cards anew. */
  draw() {
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#cards.replaceChildren(...[...this.#latest].map(([name, status]) => card(name, status)));
  }
}

function card(name, { payload, time }) {
  const status = String(firstOf(payload, "status", "state", "health") ?? "unknown");
  const [mark] = STATUSES.find(([, pattern]) => pattern.test(status)) ?? ["bad"];
  return element(
    "article",
    { class: "card", "data-status": mark },
    element("h3", {}, name, " ", element("span", { class: "status" }, status)),
    ...said(payload),
    ...figures(payload),
    timeElement(time),
  );
}

/** The reasons of a status, or its message, which may be the reasons in one line. */
function said(payload) {
  const reasons = payload?.reasons;
  if (Array.isArray(reasons) && reasons.length) {
    const items = reasons.slice(0, 20).map((reason) => element("li", {}, String(reason)));
    return [element("ul", { class: "reasons" }, ...items)];
  }
  return payload?.message ? [element("p", {}, String(payload.message))] : [];
}

/** Percentages as meters; other numbers of a payload with checks in words. */
function figures(payload) {
  const numbers = Object.entries(payload ?? {}).filter(([, value]) => typeof value === "number");
  const percents = numbers.filter(([field]) => /percent$/.test(field));
  const rest = payload?.checks ? numbers.filter(([field]) => !/percent$/.test(field)) : [];
  const words = rest.map(([field, value]) => `${inWords(field)} ${Number(value.toPrecision(3))}`);
  return [
    ...percents.map(([field, value]) => meter(field, value)),
    ...(words.length ? [element("p", {}, words.join(", "))] : []),
  ];
}

function inWords(field) {
  return field.replaceAll("_", " ").trim();
}

function meter(field, value) {
  const made = element("meter", { min: "0", max: "100", high: "90", optimum: "0" });
  made.value = value;
  const name = inWords(field.replace(/percent$/, ""));
  return element("label", {}, `${name} ${Math.round(value)} %`, made);
}
