/** Predictions: what is predicted, of what, by what; and how far off each predictor was so far. */

import { element, firstOf, oneLine, timeElement } from "./dom.js";
import { leaves } from "./series.js";

const ROWS = 50;
// Predictors whose errors are shown.
const SCORES = 10;
const FORECAST = /expected|predict|forecast|score|probab|likel|value|risk/i;

export class PredictionPanel {
  #list;
  #scores;
  #waiting = [];
  // Predictor -> its errors in words.
  #errors = new Map();

  /** @param {HTMLElement} root holds a list, and one for the errors */
  constructor(root) {
    this.#list = root.querySelector("ul.list");
    this.#scores = root.querySelector("ul.scores");
  }

  /** Take a message. */
  add(message) {
    this.#waiting.push(message);
    if (this.#waiting.length > ROWS * 2) this.#waiting = this.#waiting.slice(-ROWS);
    const score = scoreOf(message.payload);
    if (!score) return;
    const name = nameOf(message.payload);
    if (this.#errors.size < SCORES || this.#errors.has(name)) this.#errors.set(name, score);
  }

  /** Forget all messages. */
  clear() {
    this.#waiting = [];
    this.#errors.clear();
    this.#list.replaceChildren();
    this.#scores.replaceChildren();
  }

  /** Put what has come on top. */
  draw() {
    if (!this.#waiting.length) return;
    const newest = this.#waiting.slice(-ROWS).reverse();
    this.#waiting = [];
    this.#list.prepend(...newest.map(item));
    while (this.#list.children.length > ROWS) this.#list.lastElementChild.remove();
    const scores = [...this.#errors].map(([name, text]) => element("li", {}, `${name}: ${text}`));
    this.#scores.replaceChildren(...scores);
  }
}

function nameOf(payload) {
  return String(firstOf(payload, "name", "predictor", "model", "prediction_type") ?? "prediction");
}

/** The errors of a predictor so far, in words; undefined if it does not tell. */
function scoreOf(payload) {
  const { scored_flights: count, mean_absolute_error_minutes: error } = payload ?? {};
  if (typeof count !== "number" || typeof error !== "number") return undefined;
  const naive = payload.naive_mean_absolute_error_minutes;
  const compared = typeof naive === "number" ? `, ${naive} min without it` : "";
  return `off by ${error} min on average of ${count.toLocaleString()} flights${compared}`;
}

function item({ payload, time }) {
  const subject = ["entity", "entity_id", "carrier", "flight", "airport", "dest"]
    .map((part) => payload?.[part])
    .filter((part) => part !== undefined && part !== null)
    .join(" ");
  return element(
    "li",
    { title: oneLine(payload, 2000) },
    element("span", { class: "text" }, `${nameOf(payload)} ${subject}`),
    element("strong", { class: "value" }, delay(payload) ?? telling(payload)),
    timeElement(time),
  );
}

/** The delay that is expected of a flight, or was; undefined of other predictions. */
function delay(payload) {
  const { expected_arrival_delay_minutes: expected, arrival_delay_minutes: actual } = payload ?? {};
  if (typeof expected !== "number") return undefined;
  if (typeof actual !== "number") return `expected ${signed(expected)} min`;
  return `arrived ${signed(actual)} min, expected ${signed(expected)}`;
}

function signed(minutes) {
  return minutes > 0 ? `+${minutes}` : String(minutes);
}

/** The number of a payload that sounds most like a forecast. */
function telling(payload) {
  const numbers = [...leaves(payload)].filter(([, value]) => typeof value === "number");
  const [field, value] = numbers.find(([path]) => FORECAST.test(path)) ?? numbers[0] ?? ["", ""];
  return `${field.split(".").at(-1).replaceAll("_", " ")} ${value}`;
}
