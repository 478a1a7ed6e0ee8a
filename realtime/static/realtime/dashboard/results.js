/** What aggregation rules have published: a curve for each group of a rule's value. Pure. */

import { TELLING } from "./series.js";

const MAX_RULES = 50;
const MAX_VALUES = 32;
const MAX_CURVES = 8;
// Letters of a group's values: a legend is no place for more.
const MAX_LABEL = 60;
// Windows that are kept of a rule.
const MAX_WINDOWS = 240;
// Results come in the order of windows: after so many back, a replay began again.
const ROUND = 10;

/**
 * @typedef {object} Result
 * @property {string} rule
 * @property {string} label the values of the group, or the rule's name if it has no groups
 * @property {string[]} paths what it is grouped by
 * @property {number} end of the window, milliseconds since 1970
 * @property {number} size of the window in milliseconds
 * @property {Record<string, unknown>} values
 * @property {boolean} incomplete
 */

/** Read a rule's result; undefined if it is another payload. @returns {Result | undefined} */
export function resultOf(payload) {
  const { rule, group, window, values, incomplete } = payload ?? {};
  const end = Date.parse(window?.end);
  const size = end - Date.parse(window?.start);
  if (typeof rule !== "string" || !isObject(group) || !isObject(values) || !(size > 0)) {
    return undefined;
  }
  const paths = Object.keys(group);
  const label = paths.map((path) => String(group[path])).join(" · ") || rule;
  const lost = incomplete === true;
  return { rule, label: shortened(label), paths, end, size, values, incomplete: lost };
}

function shortened(text) {
  return text.length > MAX_LABEL ? `${text.slice(0, MAX_LABEL - 1)}…` : text;
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** The results of rules, the newest windows of each. */
export class Results {
  /** @type {Map<string, Rule>} */
  #rules = new Map();

  /** Take a result; tell whether it has a value that there was not before. */
  add(result) {
    let rule = this.#rules.get(result.rule);
    if (!rule) {
      if (this.#rules.size >= MAX_RULES) return false;
      this.#rules.set(result.rule, (rule = new Rule()));
    }
    return rule.add(result);
  }

  /** Forget all results. */
  clear() {
    this.#rules.clear();
  }

  /** What can be shown, as keys and titles. @returns {Map<string, string>} */
  get choices() {
    const all = [...this.#rules].flatMap(([rule, { names }]) =>
      [...names].map((name) => [JSON.stringify([rule, name]), `${rule}: ${name}`]),
    );
    return new Map(all);
  }

  /** The key to show unless someone chooses. @returns {string | undefined} */
  get telling() {
    for (const [rule, { names }] of this.#rules) {
      const name = [...names].find((one) => TELLING.test(one)) ?? [...names][0];
      if (name !== undefined) return JSON.stringify([rule, name]);
    }
    return undefined;
  }

  /**
   * The curves of a key over its newest windows.
   *
   * @param {string} key
   * @param {number} windows
   */
  curves(key, windows) {
    const [name, value] = JSON.parse(key);
    return { title: `${name} ${value}`, ...this.#rules.get(name).curves(value, windows) };
  }
}

/** The newest windows of one rule. */
class Rule {
  names = new Set();
  #paths = [];
  // Group's label -> end of a window -> result.
  #groups = new Map();
  // Ends of windows that there are results of, in order.
  #ends = [];
  // Groups of the newest window that there was no room for.
  #omitted = new Set();

  add(result) {
    const newest = this.#ends.at(-1) ?? result.end;
    if (result.end < newest - ROUND * result.size) this.#forget();
    this.#note(result.end);
    this.#paths = result.paths;
    this.#place(result);
    const before = this.names.size;
    for (const [name, value] of Object.entries(result.values).slice(0, MAX_VALUES)) {
      if (this.names.size >= MAX_VALUES) break;
      if (typeof value === "number" || value === null) this.names.add(name);
    }
    return this.names.size !== before;
  }

  #forget() {
    this.#groups.clear();
    this.#ends = [];
  }

  #note(end) {
    if (this.#ends.includes(end)) return;
    if (!(end < this.#ends.at(-1))) this.#omitted.clear();
    this.#ends.push(end);
    this.#ends.sort((one, other) => one - other);
    if (this.#ends.length <= MAX_WINDOWS) return;
    const oldest = this.#ends.shift();
    for (const [label, byEnd] of this.#groups) {
      byEnd.delete(oldest);
      if (!byEnd.size) this.#groups.delete(label);
    }
  }

  #place(result) {
    if (!this.#groups.has(result.label)) {
      if (this.#groups.size >= MAX_CURVES) {
        this.#omitted.add(result.label);
        return;
      }
      this.#groups.set(result.label, new Map());
    }
    this.#groups.get(result.label).set(result.end, result);
  }

  curves(value, windows) {
    const ends = this.#ends.slice(-windows);
    const curves = [...this.#groups]
      .map(([label, byEnd]) => ({ label, points: points(byEnd, ends, value) }))
      .filter(({ points: some }) => some.length)
      .sort((one, other) => (one.label < other.label ? -1 : 1));
    const newest = [...this.#groups.values()].map((byEnd) => byEnd.get(ends.at(-1)));
    return {
      curves,
      paths: this.#paths,
      begin: ends[0],
      end: ends.at(-1),
      omitted: this.#omitted.size,
      incomplete: newest.some((result) => result?.incomplete),
    };
  }
}

function points(byEnd, ends, value) {
  return ends
    .map((end) => ({ x: end, y: byEnd.get(end)?.values[value] }))
    .filter(({ y }) => typeof y === "number");
}
