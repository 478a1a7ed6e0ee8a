/** Reads an event stream (HTML, section 9.2.6) piece by piece. Pure. */

// Characters of one event that are kept.
const MOST = 16 * 1024 * 1024;

/**
 * @typedef {object} ServerEvent
 * @property {string} name empty for an event without one
 * @property {string | null} id the last id that was given, in this event or before
 * @property {string} data
 */

export class EventParser {
  #decoder = new TextDecoder();
  #text = "";
  #afterReturn = false;
  #name = "";
  #data = [];
  #size = 0;
  #id = null;

  /**
   * Take bytes; yield the events that they complete. One without data is yielded too, if it has
   * an id: it says how far the stream has come.
   *
   * @param {Uint8Array} bytes
   * @returns {Generator<ServerEvent>}
   * @throws {RangeError} for an event without end
   */
  *push(bytes) {
    for (const line of this.#lines(this.#decoder.decode(bytes, { stream: true }))) {
      if (line) this.#field(line);
      else yield* this.#event();
    }
    if (this.#text.length + this.#size > MOST) throw new RangeError("an event without end");
  }

  *#lines(text) {
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text) this.#afterReturn = text.endsWith("\r");
    const lines = (this.#text + text).split(/\r\n|\r|\n/);
    this.#text = lines.pop();
    yield* lines;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#name = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "data") {
      this.#data.push(value);
      this.#size += value.length;
    }
  }

  *#event() {
    if (this.#data.length || this.#id !== null) {
      yield { name: this.#name, id: this.#id, data: this.#data.join("\n") };
    }
    this.#name = "";
    this.#data = [];
    this.#size = 0;
  }
}

/** Read a position from the id of an event. @returns {{epoch: string, offset: number} | null} */
export function positionOf(id) {
  const colon = id?.lastIndexOf(":") ?? -1;
  if (colon < 1) return null;
  return { epoch: id.slice(0, colon), offset: Number(id.slice(colon + 1)) };
}
