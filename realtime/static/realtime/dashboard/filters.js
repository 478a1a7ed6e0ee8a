/** A filter box: `path=value` pairs or a JSON object, and what is said of the result. Pure. */

const STRING = String.raw`"(?:[^"\\]|\\.)*"`;
const OBJECT = String.raw`\{(?:${STRING}|[^"{}])*\}`;
const VALUE = String.raw`${STRING}|\[[^\]]*\]|${OBJECT}|[^\s"[][^\s]*`;
const PAIR = new RegExp(String.raw`([^\s=]+)=(${VALUE})?(\s+|$)`, "y");

/**
 * Read a filter as typed: `event_type=departure payload.origin=["JFK","LGA"]`,
 * `payload.delay_minutes={"gte": 60}`, or `{"a": 1, "$or": [{"b": 1}, {"c": 1}]}`.
 *
 * A value is JSON if it parses and a string otherwise; a repeated path means any of its values, but
 * a path with operators is given once. Whether the filters make sense is for the server to say.
 *
 * @param {string} text
 * @returns {Record<string, unknown>} the `filters` of a subscription
 * @throws {SyntaxError} saying what cannot be read
 */
export function parseFilters(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("{")) return JSON.parse(trimmed);
  const filters = new Map();
  for (const [path, value] of pairs(trimmed)) {
    const values = Array.isArray(value) ? value : [value];
    filters.set(path, [...(filters.get(path) ?? []), ...values]);
  }
  return Object.fromEntries(
    [...filters].map(([path, values]) => [path, path === "$or" ? values : oneOf(path, values)]),
  );
}

function oneOf(path, values) {
  if (values.length === 1) return values[0];
  if (values.some((value) => value !== null && typeof value === "object")) {
    throw new SyntaxError(`"${path}": give its operators once, as one object`);
  }
  return values;
}

/**
 * Say what a filter matches, line by line.
 *
 * @param {import("../client.js").Explanation} explanation
 * @returns {string[]}
 */
export function explained({ retained, matching, ...parts }) {
  return [`${matching} of the newest ${retained} messages match`, ...explainedParts(parts)];
}

function explainedParts({ paths, or = [] }, where = "") {
  return [
    ...Object.entries(paths).map(
      ([path, count]) =>
        `${where}path ${path}: present in ${count.present}, matches in ${count.matching}`,
    ),
    ...or.flatMap(({ matching, ...parts }, number) => {
      const name = `${where}alternative ${number + 1}`;
      return [`${name}: matches in ${matching}`, ...explainedParts(parts, `${name}, `)];
    }),
  ];
}

function* pairs(text) {
  PAIR.lastIndex = 0;
  let read = 0;
  while (read < text.length) {
    const found = PAIR.exec(text);
    if (!found) throw new SyntaxError(`expected path=value, got "${text.slice(read)}"`);
    if (found[2] === undefined) throw new SyntaxError(`"${found[1]}=" has no value`);
    read = PAIR.lastIndex;
    yield [found[1], jsonOrText(found[2])];
  }
}

function jsonOrText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
