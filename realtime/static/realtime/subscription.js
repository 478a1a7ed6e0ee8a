/** One subscription: up to where it has received, its callback, and what waits to be iterated. */

import { StreamingError, deferred } from "./contract.js";

/**
 * @typedef {{epoch: string, offset: number}} Position
 * @typedef {{pause: (subscription: Subscription) => void,
 *   resume: (subscription: Subscription) => void,
 *   unsubscribe: (subscription: Subscription) => void,
 *   gap: (subscription: Subscription, gap: object) => void,
 *   failed: (subscription: Subscription, error: StreamingError) => void}} Owner
 */

export class Subscription {
  #owner;
  #callback;
  #onGap;
  #rewind;
  #explain;
  #explanation = null;
  #less;
  #buffer;
  // Up to where messages have been received, and up to where they have been handed out.
  #received;
  #handedOut;
  // Messages that wait to be iterated; null while nobody means to.
  #queue;
  #waiting = null;
  // Enough waits: messages are not taken until the owner has asked for them again.
  #paused = false;
  #resuming = false;
  #ready = deferred();
  #ended = null;

  /**
   * Made by `StreamingClient.subscribe`.
   *
   * @param {Owner} owner
   * @param {{id: string, wireId: string, type: string, filters: object, callback?: Function,
   *   onGap?: Function, resume?: Position, rewind?: number, explain?: boolean,
   *   buffer: number, maxRate?: number, conflate?: string, batchMs?: number,
   *   fields?: string[], onOverflow?: string}} wanted
   */
  constructor(owner, wanted) {
    const { id, wireId, type, filters, callback, onGap, resume, rewind, explain, buffer } = wanted;
    this.id = id;
    this.type = type;
    this.filters = filters;
    // The id under which the server sends; equal subscriptions share one.
    this.wireId = wireId;
    this.#owner = owner;
    this.#callback = callback;
    this.#onGap = onGap;
    this.#received = resume ?? null;
    this.#handedOut = this.#received;
    this.#rewind = rewind;
    this.#explain = Boolean(explain);
    this.#less = optionsOf(wanted);
    this.#buffer = buffer;
    this.#queue = callback ? null : [];
  }

  /** The id, so that a subscription can be used where an id is wanted. */
  toString() {
    return this.id;
  }

  /** A promise of what the server first says of it: {type, filters, epoch, offset, …}. */
  get ready() {
    return this.#ready.promise;
  }

  /** What of the newest messages matched when it began, if that was asked for; null before. */
  get explanation() {
    return this.#explanation;
  }

  /** The position up to which every matching message has been handed out, or null. */
  get position() {
    return this.#queue?.length ? this.#handedOut : this.#received;
  }

  /** The position up to which messages have been received: for the client. */
  get received() {
    return this.#received;
  }

  /** Whether its iterator has enough for now. */
  get paused() {
    return this.#paused;
  }

  /** End it. */
  unsubscribe() {
    this.#owner.unsubscribe(this);
  }

  /** Iterate over its messages; that ends when the subscription does. */
  [Symbol.asyncIterator]() {
    this.#queue ??= [];
    return {
      next: () => this.#next(),
      return: async () => {
        this.unsubscribe();
        return { done: true, value: undefined };
      },
    };
  }

  async #next() {
    while (!this.#queue.length) {
      if (this.#ended?.error) throw this.#ended.error;
      if (this.#ended) return { done: true, value: undefined };
      this.#waiting ??= deferred();
      await this.#waiting.promise;
    }
    const message = this.#queue.shift();
    this.#handedOut = message.position ?? this.#handedOut;
    if (this.#paused && !this.#resuming && this.#queue.length <= this.#buffer / 2) {
      this.#resuming = true;
      this.#owner.resume(this);
    }
    return { done: false, value: message };
  }

  #wake() {
    this.#waiting?.resolve();
    this.#waiting = null;
  }

  // For the client and its transports

  /** The `data` of the request that begins it, or goes on where it was. */
  request() {
    const data = { type: this.type, filters: this.filters, ...this.#less };
    if (this.#received) data.resume = this.#received;
    else if (this.#rewind) data.rewind = this.#rewind;
    if (this.#explain && !this.#explanation) data.explain = true;
    return data;
  }

  /** Take the answer, after which messages follow. */
  begin(answer) {
    if (this.#received && !answer.recovered) this.lose({ reason: "not recovered" });
    // Else messages of before that position are still to come.
    if (!answer.replayed) this.reach(answer);
    this.#answered(answer);
  }

  /** Share the messages of an equal one from now on. */
  join(wireId, answer) {
    this.wireId = wireId;
    if (!this.#received) this.reach(answer);
    this.#answered(answer);
  }

  #answered(answer) {
    if (this.#explain) this.#explanation ??= answer.explain ?? null;
    this.#ready.resolve(answer);
  }

  /** Take messages again, after a pause: those that were not taken are about to be asked for. */
  restart() {
    this.#paused = this.#resuming = false;
  }

  /** Note that everything that matches up to a position has been received. */
  reach({ epoch, offset }) {
    if (!this.#paused && epoch !== undefined) this.#received = { epoch, offset };
  }

  /** Take a position of the server, which may be behind what has been received since. */
  advance({ epoch, offset }) {
    if (!this.#has({ epoch, offset })) this.reach({ epoch, offset });
  }

  /** Take a `data` message; one that is known is dropped. */
  take({ data, metadata, timestamp }) {
    if (this.#paused || this.#ended) return;
    const position = metadata?.offset === undefined ? null : pick(metadata);
    if (position && this.#has(position)) return;
    this.#received = position ?? this.#received;
    const { subscription_type: type, ...payloads } = data;
    const [payload] = Object.values(payloads);
    const message = { type, payload, data, timestamp, position, subscriptionId: this.id };
    if (this.#callback) this.#call(() => this.#callback(data, message));
    if (this.#queue) this.#enqueue(message);
  }

  #has({ epoch, offset }) {
    return this.#received?.epoch === epoch && offset <= this.#received.offset;
  }

  #enqueue(message) {
    this.#queue.push(message);
    this.#wake();
    if (this.#queue.length >= this.#buffer) {
      this.#paused = true;
      this.#owner.pause(this);
    }
  }

  /** Tell of messages that cannot be had any more. @param {{reason: string}} gap */
  lose(gap) {
    if (this.#onGap) this.#call(() => this.#onGap(gap));
    this.#owner.gap(this, gap);
  }

  /** End it: by its user, or with an error that its iterator throws. The first end counts. */
  end(error) {
    if (this.#ended) return;
    this.#ended = { error };
    this.#ready.reject(error ?? new StreamingError("unsubscribed"));
    if (error) this.#owner.failed(this, error);
    this.#wake();
  }

  /** Call what the user gave; what it throws is his to hear of, and stops nothing. */
  #call(callback) {
    try {
      callback();
    } catch (error) {
      report(error);
    }
  }
}

/** The protocol's names of options that were given. */
function optionsOf({ maxRate, conflate, batchMs, fields, onOverflow }) {
  const options = { max_rate: maxRate, conflate, batch_ms: batchMs, fields, on_overflow: onOverflow };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value != null));
}

function pick({ epoch, offset }) {
  return { epoch, offset };
}

function report(error) {
  if (globalThis.reportError) globalThis.reportError(error);
  else console.error(error);
}
