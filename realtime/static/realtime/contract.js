/** What the parts of the client share: errors, and when to come back. Pure. */

/** Anything that the client raises; `code` is the protocol's, if the server said it. */
export class StreamingError extends Error {
  /**
   * @param {string} message
   * @param {{code?: string | number, details?: Record<string, unknown>, cause?: unknown}} [said]
   *   `code` is an error code of the protocol or a close code
   */
  constructor(message, { code, details = {}, cause } = {}) {
    super(message, { cause });
    this.name = "StreamingError";
    this.code = code;
    this.details = details;
  }
}

/** Close codes that say not to come back. */
const FINAL_CODES = new Set([1002, 1007, 1008, 1009]);
const TOKEN_EXPIRED = "token expired";

/**
 * How a connection has ended.
 *
 * @typedef {object} Ending
 * @property {boolean} opened whether it was of any use
 * @property {number} [code] the close code
 * @property {string} [reason] the close reason
 * @property {StreamingError} [error] why there is no point in coming back
 * @property {number} [retryAfter] seconds after which the server wants the client to come back
 * @property {boolean} [unreachable] the transport got no answer at all
 */

/**
 * Return why not to come back after an ending, if that is so.
 *
 * @param {Ending} ending
 * @param {boolean} canRenew whether each connection has a token of its own
 * @returns {StreamingError | undefined}
 */
export function finalError({ error, code, reason }, canRenew) {
  if (error) return error;
  if (!FINAL_CODES.has(code)) return undefined;
  if (canRenew && reason === TOKEN_EXPIRED) return undefined;
  return new StreamingError(reason || "closed by the server", { code });
}

/**
 * Return the seconds to wait before the attempt after so many that failed: anything up to a limit
 * that doubles ("full jitter"), so that clients that were cut off together do not come back
 * together.
 *
 * @param {number} failed from 0
 * @param {[number, number]} limits of the first pause, and of all
 * @param {() => number} random from 0 to 1
 */
export function backoffDelay(failed, [first, most], random = Math.random) {
  return random() * Math.min(most, first * 2 ** Math.min(failed, 30));
}

/** A promise that can be settled from outside, and that nobody has to look at. */
export function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {});
  return made;
}
