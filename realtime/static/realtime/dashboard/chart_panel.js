/** A live chart: one number of a type's messages, one line for each value of a text. */

import { element, timeOfDay } from "./dom.js";
import { Fields, Series, valueAt } from "./series.js";

// Milliseconds between drawings: more would cost a phone its battery and show nobody more.
const DRAW_INTERVAL = 250;
// Milliseconds that a chart spans at least, while it has less than its window.
const SHORTEST = 30_000;
// Messages that are kept to be shown another way.
const KEPT = 5000;
const COLOURS = 8;

/**
 * @typedef {object} Options
 * @property {HTMLElement} root holds a canvas, and selects named "number", "group" and "window"
 */

export class ChartPanel {
  #root;
  #chart;
  #fields = new Fields();
  #kept = [];
  #series;
  // What someone has chosen; until then the fields decide.
  #chosen = { number: null, group: null };
  #shown = { number: "", group: "" };
  #drawn = 0;
  #dirty = true;
  #colours = [];

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#series = new Series(this.#window());
    this.#chart = newChart(root.querySelector("canvas"));
    for (const name of ["number", "group"]) {
      this.#select(name).addEventListener("change", (event) => {
        this.#chosen[name] = event.target.value;
        this.#rebuild();
      });
    }
    this.#select("window").addEventListener("change", () => this.#rebuild());
    this.#paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  #select(name) {
    return this.#root.querySelector(`select[name="${name}"]`);
  }

  #window() {
    return Number(this.#select("window").value) * 1000;
  }

  /** Take a message. */
  add({ payload, time }) {
    this.#kept.push({ payload, time });
    if (this.#kept.length > KEPT * 2) this.#kept = this.#kept.slice(-KEPT);
    if (this.#fields.learn(payload)) this.#offer();
    this.#count({ payload, time });
    this.#dirty = true;
  }

  /** Forget all messages. */
  clear() {
    this.#kept = [];
    this.#rebuild();
  }

  #count({ payload, time }) {
    const value = valueAt(payload, this.#shown.number);
    if (typeof value !== "number") return;
    const name = this.#shown.group ? valueAt(payload, this.#shown.group) : this.#shown.number;
    if (typeof name === "string") this.#series.add(name, time, value);
  }

  /** Offer the fields there are by now. */
  #offer() {
    const groups = this.#fields.groups;
    const number = this.#chosen.number ?? this.#fields.telling ?? "";
    const group = this.#chosen.group ?? groups[0] ?? "";
    fill(this.#select("number"), this.#fields.numbers, number);
    fill(this.#select("group"), ["", ...groups], group);
    if (number !== this.#shown.number || group !== this.#shown.group) this.#rebuild();
  }

  #rebuild() {
    this.#shown = {
      number: this.#chosen.number ?? this.#fields.telling ?? "",
      group: this.#chosen.group ?? this.#fields.groups[0] ?? "",
    };
    this.#series = new Series(this.#window());
    for (const message of this.#kept) this.#count(message);
    this.#dirty = true;
    this.#drawn = 0;
  }

  /** Take the page's colours, which may have changed. */
  #paint() {
    const style = getComputedStyle(this.#root);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    this.#colours = Array.from({ length: COLOURS }, (_, number) => colour(`line-${number}`));
    for (const scale of Object.values(this.#chart.options.scales)) {
      scale.ticks.color = colour("muted");
      scale.grid = { color: colour("border") };
    }
    this.#chart.options.plugins.legend.labels.color = colour("muted");
    this.#drawn = 0;
    this.#dirty = true;
  }

  /** Draw what has come, but not at every frame. */
  draw(now) {
    if (now - this.#drawn < (this.#dirty ? DRAW_INTERVAL : 1000)) return;
    this.#drawn = now;
    this.#dirty = false;
    this.#series.trim(now);
    const names = [...this.#series.byName.keys()].sort();
    this.#chart.data.datasets = names.map((name, number) =>
      dataset(name, this.#series.points(name), this.#colours[number % COLOURS]),
    );
    const begin = Math.min(this.#series.begin, now - SHORTEST);
    this.#chart.options.scales.x.min = Math.max(begin, now - this.#series.window);
    this.#chart.options.scales.x.max = now;
    this.#chart.update("none");
    this.#describe(names);
  }

  /** Say in words what the chart shows. */
  #describe(names) {
    const last = names.map((name) => {
      const { y } = this.#series.points(name).at(-1);
      return `${name} ${Number(y.toPrecision(4))}`;
    });
    const more = this.#series.omitted.size ? ` and ${this.#series.omitted.size} more` : "";
    const text = last.length ? `${this.#shown.number}: ${last.join(", ")}${more}` : "nothing yet";
    this.#root.querySelector(".latest").textContent = text;
    this.#chart.canvas.setAttribute("aria-label", `Line chart of ${text}`);
  }
}

function fill(select, names, chosen) {
  const options = names.map((name) => {
    const option = element("option", { value: name }, name || "no grouping");
    option.selected = name === chosen;
    return option;
  });
  select.replaceChildren(...options);
}

function dataset(label, data, colour) {
  return {
    label,
    data,
    borderColor: colour,
    backgroundColor: colour,
    borderWidth: 2,
    pointRadius: data.length > 60 ? 0 : 2,
    cubicInterpolationMode: "monotone",
    spanGaps: true,
  };
}

function newChart(canvas) {
  return new window.Chart(canvas, {
    type: "line",
    data: { datasets: [] },
    options: {
      animation: false,
      parsing: false,
      normalized: true,
      maintainAspectRatio: false,
      interaction: { mode: "nearest", axis: "x", intersect: false },
      scales: {
        x: { type: "linear", ticks: { maxRotation: 0, count: 5, callback: timeOfDay } },
        y: { ticks: { maxTicksLimit: 6 } },
      },
      plugins: {
        legend: { position: "bottom", labels: { boxWidth: 10, boxHeight: 10 } },
        tooltip: { callbacks: { title: ([item]) => (item ? timeOfDay(item.parsed.x) : "") } },
      },
    },
  });
}
