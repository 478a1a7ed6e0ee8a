/** What a chart shows: which numbers messages have, and their means over equal spans. Pure. */

const MAX_DEPTH = 3;
const MAX_SERIES = 8;
const MAX_GROUPS = 12;
// Numbers that say which message it is, and numbers that people look at first.
const DULL = /(^|\.)(id|.*_id|round|version|epoch|offset|timestamp)$/;
export const TELLING = /mean|avg|average|p\d\d|latency|temp|percent|rate|value/;

/**
 * Yield the scalars of a payload by their dotted paths.
 *
 * @param {unknown} payload
 * @returns {Generator<[string, unknown]>}
 */
export function* leaves(payload, prefix = "", depth = 0) {
  for (const [name, value] of Object.entries(payload ?? {})) {
    if (value !== null && typeof value === "object") {
      if (depth < MAX_DEPTH && !Array.isArray(value)) {
        yield* leaves(value, `${prefix}${name}.`, depth + 1);
      }
    } else {
      yield [prefix + name, value];
    }
  }
}

/** The fields that messages have had: numbers to show, and texts to tell them apart by. */
export class Fields {
  #numbers = new Set();
  #texts = new Map();

  /** Take note of a payload; tell whether it has a field that none had before. */
  learn(payload) {
    const before = this.#numbers.size + this.groups.length;
    for (const [path, value] of leaves(payload)) {
      if (typeof value === "number" && !DULL.test(path)) this.#numbers.add(path);
      if (typeof value === "string" && !DULL.test(path)) this.#note(path, value);
    }
    return this.#numbers.size + this.groups.length !== before;
  }

  #note(path, value) {
    if (!this.#texts.has(path)) this.#texts.set(path, new Set());
    const values = this.#texts.get(path);
    if (values.size <= MAX_GROUPS) values.add(value);
  }

  /** Paths of numbers. @returns {string[]} */
  get numbers() {
    return [...this.#numbers];
  }

  /** Paths of texts with a few different values. @returns {string[]} */
  get groups() {
    return [...this.#texts]
      .filter(([, values]) => values.size > 1 && values.size <= MAX_GROUPS)
      .map(([path]) => path);
  }

  /** The number to show unless someone chooses. @returns {string | undefined} */
  get telling() {
    return this.numbers.find((path) => TELLING.test(path)) ?? this.numbers[0];
  }
}

/**
 * Look up a scalar by its dotted path.
 *
 * @param {unknown} payload
 * @param {string} path
 */
export function valueAt(payload, path) {
  return path.split(".").reduce((found, step) => found?.[step], payload);
}

/** Means of numbers over equal spans of time, for a few series. */
export class Series {
  /**
   * @param {number} window milliseconds that are kept
   * @param {number} spans into how many spans they are divided
   */
  constructor(window, spans = 240) {
    this.window = window;
    this.span = window / spans;
    /** @type {Map<string, Map<number, {sum: number, count: number}>>} */
    this.byName = new Map();
    // Names there was no room for.
    this.omitted = new Set();
  }

  /** Count a number in. @param {number} time milliseconds since 1970 */
  add(name, time, value) {
    let spans = this.byName.get(name);
    if (!spans) {
      if (this.byName.size >= MAX_SERIES) {
        this.omitted.add(name);
        return;
      }
      this.byName.set(name, (spans = new Map()));
    }
    const start = Math.floor(time / this.span) * this.span;
    const mean = spans.get(start);
    if (mean) {
      mean.sum += value;
      mean.count += 1;
    } else {
      spans.set(start, { sum: value, count: 1 });
    }
  }

  /** Forget what is older than the window. */
  trim(now) {
    for (const [name, spans] of this.byName) {
      for (const start of spans.keys()) {
        if (start < now - this.window) spans.delete(start);
      }
      if (!spans.size) this.byName.delete(name);
    }
  }

  /** Of when the oldest point is; infinite if there is none. */
  get begin() {
    return Math.min(...[...this.byName.values()].flatMap((spans) => [...spans.keys()]));
  }

  /** The points of a series in order of time. @returns {{x: number, y: number}[]} */
  points(name) {
    return [...this.byName.get(name)]
      .map(([start, { sum, count }]) => ({ x: start, y: sum / count }))
      .sort((one, other) => one.x - other.x);
  }
}
