/** Alerts and predictions as lists, system status as a card for each component. */

import { element, firstOf, oneLine, timeElement } from "./dom.js";
import { leaves } from "./series.js";

const ROWS = 50;
const SEVERITIES = [
  ["critical", /^(critical|fatal|emergency|error|high|p1|sev1)/i],
  ["warning", /^(warn|medium|moderate|p2|sev2)/i],
  ["info", /./],
];
const FORECAST = /expected|predict|forecast|score|probab|likel|value|risk/i;

/** The newest messages of a type, one item each. */
class ListPanel {
  #list;
  #waiting = [];

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#list = root.querySelector("ul");
  }

  /** Take a message. */
  add(message) {
    this.#waiting.push(message);
    if (this.#waiting.length > ROWS * 2) this.#waiting = this.#waiting.slice(-ROWS);
  }

  /** Forget all messages. */
  clear() {
    this.#waiting = [];
    this.#list.replaceChildren();
  }

  /** Put what has come on top. */
  draw() {
    if (!this.#waiting.length) return;
    const newest = this.#waiting.slice(-ROWS).reverse();
    this.#waiting = [];
    this.#list.prepend(...newest.map((message) => this.item(message)));
    while (this.#list.children.length > ROWS) this.#list.lastElementChild.remove();
  }
}

/** Alerts, marked with their severity in colour and in words. */
export class AlertPanel extends ListPanel {
  item({ payload, time }) {
    const said = String(firstOf(payload, "severity", "level", "priority") ?? "info");
    const [severity] = SEVERITIES.find(([, pattern]) => pattern.test(said)) ?? ["info"];
    const text = firstOf(payload, "message", "title", "description", "name") ?? oneLine(payload);
    return element(
      "li",
      { "data-severity": severity, title: oneLine(payload, 2000) },
      element("strong", { class: "severity" }, said),
      element("span", { class: "text" }, String(text)),
      timeElement(time),
    );
  }
}

/** Predictions: what is predicted, of what, by what. */
export class PredictionPanel extends ListPanel {
  item({ payload, time }) {
    const numbers = [...leaves(payload)].filter(([, value]) => typeof value === "number");
    const [field, value] = numbers.find(([path]) => FORECAST.test(path)) ?? numbers[0] ?? ["", ""];
    const name = firstOf(payload, "name", "predictor", "model", "prediction_type") ?? "prediction";
    const subject = ["entity", "entity_id", "carrier", "flight", "airport", "dest"]
      .map((part) => payload?.[part])
      .filter((part) => part !== undefined && part !== null)
      .join(" ");
    return element(
      "li",
      { title: oneLine(payload, 2000) },
      element("span", { class: "text" }, `${name} ${subject}`),
      element("strong", { class: "value" }, `${field.split(".").at(-1).replaceAll("_", " ")} ${value}`),
      timeElement(time),
    );
  }
}

/** The latest status of each component. */
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
  const meters = Object.entries(payload ?? {})
    .filter(([field, value]) => /percent$/.test(field) && typeof value === "number")
    .map(([field, value]) => meter(field, value));
  const text = payload?.message ? [element("p", {}, String(payload.message))] : [];
  return element(
    "article",
    { class: "card", "data-status": /^(ok|up|healthy|green)$/i.test(status) ? "ok" : "bad" },
    element("h3", {}, name, " ", element("span", { class: "status" }, status)),
    ...text,
    ...meters,
    timeElement(time),
  );
}

function meter(field, value) {
  const made = element("meter", { min: "0", max: "100", high: "90", optimum: "0" });
  made.value = value;
  const name = field.replace(/_?percent$/, "").replaceAll("_", " ");
  return element("label", {}, `${name} ${Math.round(value)} %`, made);
}
