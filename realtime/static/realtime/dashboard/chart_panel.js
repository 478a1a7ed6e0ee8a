/**
 * A live chart: one number of a type's messages, one line for each value of a text; or one value of
 * an aggregation rule's results, one line for each group, at the ends of their windows.
 */

import { element } from "./dom.js";
import { LineChart } from "./line_chart.js";
import { Results, resultOf } from "./results.js";
import { Fields, Series, valueAt } from "./series.js";

// Milliseconds between drawings: more would cost a phone its battery and show nobody more.
const DRAW_INTERVAL = 250;
// Milliseconds that a chart spans at least, while it has less than its window.
const SHORTEST = 30_000;
// Messages that are kept to be shown another way.
const KEPT = 5000;

export class ChartPanel {
  #root;
  #chart;
  #fields = new Fields();
  #results = new Results();
  #kept = [];
  #series;
  // What someone has chosen; until then the fields decide.
  #chosen = { number: null, group: null };
  #shown = { number: "", group: "" };
  #drawn = 0;
  #dirty = true;

  /** @param {HTMLElement} root holds a canvas, and selects: number, group, window and windows */
  constructor(root) {
    this.#root = root;
    this.#series = new Series(this.#window());
    this.#chart = new LineChart(root, () => this.#redraw());
    for (const name of ["number", "group"]) {
      this.#select(name).addEventListener("change", (event) => {
        this.#chosen[name] = event.target.value;
        this.#rebuild();
      });
    }
    this.#select("window").addEventListener("change", () => this.#rebuild());
    this.#select("windows").addEventListener("change", () => this.#redraw());
  }

  #select(name) {
    return this.#root.querySelector(`select[name="${name}"]`);
  }

  #window() {
    return Number(this.#select("window").value) * 1000;
  }

  /** Take a message. */
  add({ payload, time }) {
    const result = resultOf(payload);
    if (result) {
      if (this.#results.add(result)) this.#offer();
    } else {
      this.#kept.push({ payload, time });
      if (this.#kept.length > KEPT * 2) this.#kept = this.#kept.slice(-KEPT);
      if (this.#fields.learn(payload)) this.#offer();
      this.#count({ payload, time });
    }
    this.#dirty = true;
  }

  /** Forget all messages. */
  clear() {
    this.#kept = [];
    this.#results.clear();
    this.#rebuild();
  }

  #count({ payload, time }) {
    const value = valueAt(payload, this.#shown.number);
    if (typeof value !== "number") return;
    const name = this.#shown.group ? valueAt(payload, this.#shown.group) : this.#shown.number;
    if (typeof name === "string") this.#series.add(name, time, value);
  }

  /** What to show: as someone chose, else what tells most. */
  #choice() {
    return {
      number: this.#chosen.number ?? this.#results.telling ?? this.#fields.telling ?? "",
      group: this.#chosen.group ?? this.#fields.groups[0] ?? "",
    };
  }

  /** Offer the fields there are by now. */
  #offer() {
    const { number, group } = this.#choice();
    const fields = this.#fields.numbers.map((path) => [path, path]);
    fill(this.#select("number"), [...this.#results.choices, ...fields], number);
    const groups = this.#fields.groups.map((path) => [path, path]);
    fill(this.#select("group"), [["", "no grouping"], ...groups], group);
    if (number !== this.#shown.number || group !== this.#shown.group) this.#rebuild();
  }

  #rebuild() {
    this.#shown = this.#choice();
    this.#series = new Series(this.#window());
    for (const message of this.#kept) this.#count(message);
    this.#redraw();
  }

  #redraw() {
    this.#dirty = true;
    this.#drawn = 0;
  }

  /** Draw what has come, but not at every frame. */
  draw(now) {
    if (now - this.#drawn < (this.#dirty ? DRAW_INTERVAL : 1000)) return;
    this.#drawn = now;
    const changed = this.#dirty;
    this.#dirty = false;
    const ofRule = this.#results.choices.has(this.#shown.number);
    // A rule says itself what its groups are, and its windows are not those of this page's clock.
    this.#select("group").parentElement.hidden = ofRule;
    this.#select("window").parentElement.hidden = ofRule;
    this.#select("windows").parentElement.hidden = !ofRule;
    if (!ofRule) this.#drawSeries(now);
    else if (changed) this.#drawResults();
  }

  #drawSeries(now) {
    this.#series.trim(now);
    const names = [...this.#series.byName.keys()].sort();
    const lines = names.map((label) => ({ label, points: this.#series.points(label) }));
    const begin = Math.max(
      Math.min(this.#series.begin, now - SHORTEST),
      now - this.#series.window,
    );
    const text = inWords(this.#shown.number, lines, this.#series.omitted.size);
    this.#chart.draw(lines, begin, now, text);
  }

  #drawResults() {
    const windows = Number(this.#select("windows").value);
    const shown = this.#results.curves(this.#shown.number, windows);
    const by = shown.paths.length ? ` by ${shown.paths.join(", ")}` : "";
    const incomplete = shown.incomplete ? " (incomplete: messages were lost)" : "";
    const text = inWords(shown.title + by, shown.curves, shown.omitted) + incomplete;
    this.#chart.draw(shown.curves, shown.begin, shown.end, text);
  }
}

/** Say the latest points in words. */
function inWords(title, lines, omitted) {
  if (!lines.length) return "nothing yet";
  const last = lines.map(({ label, points }) => {
    return `${label} ${Number(points.at(-1).y.toPrecision(4))}`;
  });
  return `${title}: ${last.join(", ")}${omitted ? ` and ${omitted} more` : ""}`;
}

function fill(select, choices, chosen) {
  const options = choices.map(([value, title]) => {
    const option = element("option", { value }, title);
    option.selected = value === chosen;
    return option;
  });
  select.replaceChildren(...options);
}
