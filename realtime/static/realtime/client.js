/**
 * The client of the streaming API, for pages and for Node: comes back by itself, and hands out
 * every message once.
 *
 *     import { StreamingClient } from "/static/realtime/client.js";
 *
 *     const client = new StreamingClient("wss://stream.example.com/ws/", "rt_...");
 *     client.subscribe("events", { event_type: "departure" }, ({ event }) => console.log(event));
 *
 * @module
 */

import { StreamingError, backoffDelay, deferred, finalError } from "./contract.js";
import { SseTransport } from "./sse.js";
import { Subscription } from "./subscription.js";
import { WebSocketTransport } from "./websocket.js";

export { StreamingError } from "./contract.js";
export { Subscription } from "./subscription.js";

const TRANSPORTS = { websocket: WebSocketTransport, sse: SseTransport };
// Attempts of a transport that get no answer, after which the next is tried.
const ATTEMPTS = 2;
// A timer this late, in milliseconds, means that the machine slept.
const SLEPT = 5000;
const WATCH_INTERVAL = 1000;

/** A connection to a streaming server that comes back by itself. */
export class StreamingClient extends EventTarget {
  #token;
  #options;
  #state = "closed";
  #transport = null;
  #latency = null;
  #wasOpen = false;
  #error = null;
  #ready = deferred();
  #numbers = 0;
  #host;
  // Ends the pause before the next attempt.
  #hurry = null;
  #stopWatching = () => {};

  /**
   * Connect, and stay connected until {@link close}.
   *
   * @param {string} url of the WebSocket endpoint: `ws:`, `wss:`, or relative to the page
   * @param {string | null | (() => string | Promise<string>)} token a function is called for each
   *   connection: for tokens that live shortly
   * @param {object} [options] seconds where they are times:
   *   `backoff` [0.5, 30], the limits of the first pause and of all; `heartbeat` 20, how often the
   *   server is asked for a sign of life; `answerTimeout` 10; `connectTimeout` 10;
   *   `transports` ["websocket", "sse"], in the order to try them; `streamUrl` of the event
   *   streams, by default `/api/stream/` of the same server; `buffer` 10000, messages that wait to
   *   be iterated; `WebSocket` and `fetch`, by default the platform's
   */
  constructor(url, token = null, options = {}) {
    super();
    this.url = socketUrl(url);
    this.subscriptions = new Map();
    this.#token = token;
    this.#options = {
      backoff: [0.5, 30],
      heartbeat: 20,
      answerTimeout: 10,
      connectTimeout: 10,
      transports: ["websocket", "sse"],
      buffer: 10_000,
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch?.bind(globalThis),
      ...options,
    };
    this.#host = this.#makeHost();
    this.#stopWatching = watchForWaking(() => this.#wake());
    this.#run();
  }

  /** `connecting`, `open`, `recovering` (connecting again) or `closed` (for good). */
  get state() {
    return this.#state;
  }

  /** A promise: connected, authenticated and subscribed for the first time; rejects if refused. */
  get ready() {
    return this.#ready.promise;
  }

  /** Milliseconds that the last ping took, there and back; null before. */
  get latency() {
    return this.#latency;
  }

  /** What connects it now: `websocket`, `sse`, or null. */
  get transport() {
    return this.#transport?.constructor.kind ?? null;
  }

  /**
   * Subscribe to a type: from now on, after a position, or with the newest few messages.
   *
   * A callback gets `data` as the server sends it ({event: …, subscription_type}) and the message
   * ({type, payload, data, timestamp, position, subscriptionId}); without one, iterate:
   * `for await (const message of client.subscribe("events"))`.
   *
   * @param {string} type
   * @param {Record<string, unknown>} [filters]
   * @param {Function | object} [callback] or the options
   * @param {{id?: string, resume?: {epoch: string, offset: number}, rewind?: number,
   *   explain?: boolean,
   *   maxRate?: number, conflate?: string, batchMs?: number, fields?: string[],
   *   onOverflow?: "close" | "drop",
   *   onGap?: (gap: {reason: string, first?: number, last?: number}) => void}} [options]
   * @returns {Subscription}
   */
  subscribe(type, filters = {}, callback = undefined, options = {}) {
    if (callback && typeof callback !== "function") [callback, options] = [undefined, callback];
    const id = options.id ?? `${type}-${++this.#numbers}`;
    if (this.subscriptions.has(id)) throw new StreamingError(`there is a subscription ${id}`);
    const { buffer } = this.#options;
    const wireId = this.#freeWireId(id);
    const wanted = { buffer, ...options, id, wireId, type, filters: filters ?? {}, callback };
    const subscription = new Subscription(this.#owner, wanted);
    if (this.#error) {
      subscription.end(this.#error);
    } else {
      this.subscriptions.set(id, subscription);
      this.#transport?.subscribe();
    }
    return subscription;
  }

  /** The id itself, unless a subscription that shares another's messages still uses it. */
  #freeWireId(id) {
    const used = new Set([...this.subscriptions.values()].map(({ wireId }) => wireId));
    for (let number = 1; used.has(id); number += 1) id = `shared-${number}`;
    return id;
  }

  /** End a subscription, given itself or its id; once or more. */
  unsubscribe(subscription) {
    const known = this.subscriptions.get(String(subscription));
    if (!known) return;
    this.subscriptions.delete(known.id);
    known.end();
    this.#transport?.unsubscribe(known);
  }

  /** End the connection and all subscriptions. */
  close() {
    this.#finish(null);
  }

  // What subscriptions and transports need

  #owner = {
    pause: (subscription) => this.#transport?.unsubscribe(subscription),
    resume: (subscription) => this.#transport?.resume(subscription),
    unsubscribe: (subscription) => this.unsubscribe(subscription),
    gap: (subscription, gap) => this.#tell("gap", { subscription, ...gap }),
    failed: (subscription, error) => this.#tell("error", { subscription, error }),
  };

  #makeHost() {
    return {
      url: this.url,
      streamUrl: this.#options.streamUrl ?? streamUrl(this.url),
      options: this.#options,
      token: async () => (typeof this.#token === "function" ? this.#token() : this.#token),
      subscriptions: () => this.subscriptions.values(),
      opened: () => this.#opened(),
      measured: (milliseconds) => {
        this.#latency = milliseconds;
        this.#tell("latency", { latency: milliseconds });
      },
      refused: (subscription, error) => {
        this.subscriptions.delete(subscription.id);
        subscription.end(error);
      },
    };
  }

  // One connection after another

  async #run() {
    let failed = 0;
    let unanswered = 0;
    let renewed = false;
    while (!this.#error) {
      this.#setState(this.#wasOpen ? "recovering" : "connecting");
      const ending = await this.#useTransport(Math.floor(unanswered / ATTEMPTS));
      unanswered = ending.unreachable ? unanswered + 1 : 0;
      if (ending.opened) [failed, renewed] = [0, false];
      if (this.#error) return;
      const error = finalError(ending, typeof this.#token === "function");
      if (error && !this.#mayRenew(error, renewed)) {
        this.#finish(error, ending);
        return;
      }
      renewed = Boolean(error);
      const retryIn = ending.retryAfter || backoffDelay(failed++, this.#options.backoff);
      const { code, reason } = ending;
      this.#setState(this.#wasOpen ? "recovering" : "connecting", { code, reason, retryIn });
      await this.#pause(retryIn);
    }
  }

  /** A token that was refused may have ended on its way: another one is tried, once. */
  #mayRenew({ code }, renewed) {
    return code === "invalid_credentials" && typeof this.#token === "function" && !renewed;
  }

  #useTransport(number) {
    const { transports, WebSocket } = this.#options;
    const usable = transports.filter((name) => name !== "websocket" || WebSocket);
    if (!usable.length) {
      const error = new StreamingError("there is no WebSocket here: pass one as an option");
      return { opened: false, error };
    }
    this.#transport = new TRANSPORTS[usable[number % usable.length]](this.#host);
    return this.#transport.run();
  }

  #opened() {
    this.#wasOpen = true;
    this.#setState("open");
    this.#ready.resolve();
    // What was subscribed to while the last of the others was asked for.
    this.#transport.subscribe();
  }

  async #pause(seconds) {
    await new Promise((resolve) => {
      this.#hurry = resolve;
      this.#timer = setTimeout(resolve, seconds * 1000);
    });
    clearTimeout(this.#timer);
    this.#hurry = null;
  }

  #timer;

  #wake() {
    if (this.#hurry) this.#hurry();
    else this.#transport?.wake();
  }

  #finish(error, { code, reason } = {}) {
    if (this.#error) return;
    this.#error = error ?? new StreamingError("the client is closed");
    this.#stopWatching();
    this.#hurry?.();
    this.#transport?.stop();
    this.#transport = null;
    for (const subscription of this.subscriptions.values()) subscription.end(error ?? undefined);
    this.subscriptions.clear();
    this.#ready.reject(this.#error);
    this.#setState("closed", { code, reason, error: error ?? undefined });
  }

  #setState(state, detail = {}) {
    const previous = this.#state;
    this.#state = state;
    if (state !== previous || detail.retryIn !== undefined) {
      this.#tell("state", { state, previous, ...detail });
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The WebSocket URL that is meant: of the page, if it is relative; `ws:` for `http:`. */
function socketUrl(url) {
  const resolved = new URL(url, globalThis.location?.href);
  resolved.protocol = resolved.protocol.replace(/^http/, "ws");
  return resolved.href;
}

function streamUrl(url) {
  const resolved = new URL("/api/stream/", url);
  resolved.protocol = resolved.protocol.replace(/^ws/, "http");
  return resolved.href;
}

/** Call when the connection may have gone unnoticed: the tab or the machine slept. */
function watchForWaking(wake) {
  const stopWatching = watchTimers(wake);
  const { document } = globalThis;
  if (!document) return stopWatching;
  const shown = () => document.visibilityState === "visible" && wake();
  document.addEventListener("visibilitychange", shown);
  const page = document.defaultView;
  for (const type of ["pageshow", "online"]) page.addEventListener(type, wake);
  return () => {
    stopWatching();
    document.removeEventListener("visibilitychange", shown);
    for (const type of ["pageshow", "online"]) page.removeEventListener(type, wake);
  };
}

function watchTimers(wake) {
  let last = Date.now();
  const timer = setInterval(() => {
    const now = Date.now();
    if (now - last > WATCH_INTERVAL + SLEPT) wake();
    last = now;
  }, WATCH_INTERVAL);
  timer.unref?.();
  return () => clearInterval(timer);
}
