/** The text of a filter box: `path=value` pairs or a JSON object. Pure. */

const PAIR = /([^\s=]+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^\s"[][^\s]*)?(\s+|$)/y;

/**
 * Read a filter as typed: `event_type=departure payload.origin=["JFK","LGA"]`, or `{"a": 1}`.
 *
 * A value is JSON if it parses and a string otherwise; a repeated path means any of its values.
 * Whether the filters make sense is for the server to say.
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
    [...filters].map(([path, values]) => [path, values.length === 1 ? values[0] : values]),
  );
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
