/** Draws named lines over time in the page's colours; knows nothing of messages. */

import { moment, timeOfDay } from "./dom.js";

const COLOURS = 8;
const DAY = 86_400_000;

export class LineChart {
  #chart;
  #root;
  #colours = [];

  /**
   * @param {HTMLElement} root holds a canvas
   * @param {() => void} repaint is called when the page's colours have changed
   */
  constructor(root, repaint) {
    this.#root = root;
    this.#chart = newChart(root.querySelector("canvas"));
    this.#paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#paint();
      repaint();
    });
  }

  /** Take the page's colours. */
  #paint() {
    const style = getComputedStyle(this.#root);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    this.#colours = Array.from({ length: COLOURS }, (_, number) => colour(`line-${number}`));
    for (const scale of Object.values(this.#chart.options.scales)) {
      scale.ticks.color = colour("muted");
      scale.grid = { color: colour("border") };
    }
    this.#chart.options.plugins.legend.labels.color = colour("muted");
  }

  /**
   * Draw lines from one time to another, and say in words what they show.
   *
   * @param {{label: string, points: {x: number, y: number}[]}[]} lines
   */
  draw(lines, begin, end, text) {
    this.#chart.data.datasets = lines.map(({ label, points }, number) =>
      dataset(label, points, this.#colours[number % COLOURS]),
    );
    const { x } = this.#chart.options.scales;
    x.min = begin;
    x.max = end;
    x.ticks.callback = end - begin > DAY / 2 ? (time) => moment(time, false) : timeOfDay;
    this.#chart.update("none");
    this.#root.querySelector(".latest").textContent = text;
    this.#chart.canvas.setAttribute("aria-label", `Line chart of ${text}`);
  }
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
        tooltip: { callbacks: { title: ([item]) => (item ? moment(item.parsed.x) : "") } },
      },
    },
  });
}
