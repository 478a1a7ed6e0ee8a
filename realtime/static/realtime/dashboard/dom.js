/** Small helpers to make elements; everything that came over the network is text, never markup. */

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** A time of day. @param {number} time milliseconds since 1970 */
export function timeOfDay(time) {
  return clock.format(time);
}

const date = new Intl.DateTimeFormat(undefined, { dateStyle: "short" });
const minute = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});

/** A time, with its date unless that is today's; with `exact` to the second. */
export function moment(time, exact = true) {
  const day = date.format(time);
  const ofDay = (exact ? clock : minute).format(time);
  return day === date.format(Date.now()) ? ofDay : `${day} ${ofDay}`;
}

/** An element for a time, exact when pointed at. */
export function timeElement(time) {
  const exact = new Date(time).toISOString();
  return element("time", { datetime: exact, title: exact }, timeOfDay(time));
}

/** A payload in one line. */
export function oneLine(payload, most = 240) {
  const text = JSON.stringify(payload);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** The first of these fields that a payload has. */
export function firstOf(payload, ...names) {
  for (const name of names) {
    if (payload?.[name] !== undefined && payload[name] !== null) return payload[name];
  }
  return undefined;
}
