/** The newest events as a table. */

import { element, firstOf, oneLine, timeElement } from "./dom.js";

// Rows that are kept, drawn or not.
const ROWS = 200;

export class EventPanel {
  #body;
  #count;
  #waiting = [];
  #total = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#body = root.querySelector("tbody");
    this.#count = root.querySelector(".count");
  }

  /** Take a message. */
  add(message) {
    this.#total += 1;
    this.#waiting.push(message);
    // What nobody will see is not kept.
    if (this.#waiting.length > ROWS * 2) this.#waiting = this.#waiting.slice(-ROWS);
  }

  /** How many have come since they were last drawn. */
  clear() {
    this.#waiting = [];
    this.#total = 0;
    this.#body.replaceChildren();
  }

  /** Put what has come on top. */
  draw() {
    this.#count.textContent = this.#total.toLocaleString();
    if (!this.#waiting.length) return;
    const newest = this.#waiting.slice(-ROWS).reverse();
    this.#waiting = [];
    this.#body.prepend(...newest.map(row));
    while (this.#body.rows.length > ROWS) this.#body.lastElementChild.remove();
  }
}

function row({ payload, time, position }) {
  const kind = firstOf(payload, "event_type", "type", "name", "kind") ?? "";
  return element(
    "tr",
    {},
    element("td", {}, timeElement(time)),
    element("td", { class: "offset" }, position ? `#${position.offset}` : ""),
    element("td", { class: "kind" }, String(kind)),
    element("td", { class: "payload" }, details(payload)),
  );
}

/** A payload in one line that opens into many. */
function details(payload) {
  const made = element("details", {}, element("summary", {}, oneLine(payload)));
  made.addEventListener(
    "toggle",
    () => made.append(element("pre", {}, JSON.stringify(payload, null, 2))),
    { once: true },
  );
  return made;
}
