/** The client over plain HTTP, where WebSockets are blocked: an event stream per subscription. */

import { StreamingError, deferred } from "./contract.js";
import { EventParser, positionOf } from "./event_source.js";

// Statuses that concern the whole client, and those that concern one subscription.
const NOT_WANTED = new Set([401]);
const REFUSED = new Set([400, 403, 404, 405]);

export class SseTransport {
  static kind = "sse";

  #host;
  #ended = deferred();
  #opened = false;
  // Subscription -> what ends its stream.
  #streams = new Map();
  #timers = new Set();

  /** @param {import("./websocket.js").Host} host */
  constructor(host) {
    this.#host = host;
  }

  /** Open the streams and stay until one of them is lost. */
  async run() {
    await Promise.race([this.sync(), this.#ended.promise]);
    if (!this.#isEnded) {
      this.#opened = true;
      this.#host.opened();
    }
    return this.#ended.promise;
  }

  #isEnded = false;

  #end(ending) {
    if (this.#isEnded) return;
    this.#isEnded = true;
    for (const stream of this.#streams.values()) stream.abort();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#ended.resolve({ opened: this.#opened, ...ending });
  }

  /** Cut all streams. */
  stop() {
    this.#end({});
  }

  /** A stream is watched for silence; nothing can be asked. */
  wake() {}

  // Subscriptions

  /** Open the streams that are missing; return when all have been answered. */
  async sync() {
    const missing = [...this.#host.subscriptions()].filter(
      (subscription) => !this.#streams.has(subscription) && !subscription.paused,
    );
    await Promise.all(missing.map((subscription) => this.#open(subscription)));
  }

  /** Open the streams of new subscriptions. */
  async subscribe() {
    if (this.#opened && !this.#isEnded) await this.sync();
  }

  /** Close the stream of a subscription. */
  async unsubscribe(subscription) {
    this.#streams.get(subscription)?.abort();
    this.#streams.delete(subscription);
  }

  /** Open the stream of a subscription again. */
  async resume(subscription) {
    subscription.restart();
    await this.subscribe();
  }

  async #open(subscription) {
    const stream = new AbortController();
    this.#streams.set(subscription, stream);
    const isMine = () => !this.#isEnded && this.#streams.get(subscription) === stream;
    try {
      const response = await this.#request(subscription, stream.signal);
      if (response.ok) {
        this.#read(subscription, response, isMine).catch((error) => {
          if (isMine()) this.#end({ reason: error.message });
        });
      } else if (isMine()) {
        await this.#refuse(subscription, response);
      }
    } catch (error) {
      // What fails without an answer is a TypeError; anything else comes from the token.
      if (isMine()) this.#end({ reason: error.message, unreachable: error instanceof TypeError });
    }
  }

  async #request(subscription, signal) {
    const { options, streamUrl } = this.#host;
    const token = await this.#host.token();
    // A stream has no frames, so no batches.
    const { type, filters, resume, rewind, explain, batch_ms: _, ...less } = subscription.request();
    const query = new URLSearchParams(less);
    if (Object.keys(filters).length) query.set("filter", JSON.stringify(filters));
    if (resume) query.set("last_event_id", `${resume.epoch}:${resume.offset}`);
    if (rewind) query.set("rewind", rewind);
    if (explain) query.set("explain", "1");
    const headers = { Accept: "text/event-stream" };
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    return options.fetch(`${streamUrl}${encodeURIComponent(type)}?${query}`, {
      headers,
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  }

  async #refuse(subscription, response) {
    const { error, code, details } = await response.json().catch(() => ({}));
    const refusal = new StreamingError(error ?? `HTTP ${response.status}`, { code, details });
    if (NOT_WANTED.has(response.status)) {
      this.#end({ error: refusal });
    } else if (REFUSED.has(response.status)) {
      this.#streams.delete(subscription);
      this.#host.refused(subscription, refusal);
    } else {
      this.#end({ retryAfter: details?.retry_after ?? Number(response.headers.get("Retry-After")) });
    }
  }

  async #read(subscription, response, isMine) {
    const parser = new EventParser();
    const reader = response.body.getReader();
    while (isMine()) {
      const { done, value } = await this.#inTime(reader.read());
      if (done) throw new Error("the stream has ended");
      for (const event of parser.push(value)) {
        if (!isMine()) return;
        this.#take(subscription, event);
      }
    }
  }

  /** Wait for a piece; a server that lives says something at least each `ping_interval`. */
  async #inTime(reading) {
    const { heartbeat, answerTimeout } = this.#host.options;
    const late = deferred();
    const patience = (2 * heartbeat + answerTimeout) * 1000;
    const timer = setTimeout(() => late.reject(new Error("no answer")), patience);
    this.#timers.add(timer);
    try {
      return await Promise.race([reading, late.promise]);
    } finally {
      clearTimeout(timer);
      this.#timers.delete(timer);
    }
  }

  #take(subscription, { name, id, data }) {
    const position = positionOf(id);
    if (!data) {
      if (position) subscription.reach(position);
      return;
    }
    const message = JSON.parse(data);
    if (name === "") subscription.take(message);
    else if (name === "subscribed") subscription.begin(message.data);
    else if (name === "data_lost") {
      const { from: first, to: last, reason } = message.data.details ?? {};
      subscription.lose({ reason, first, last });
    } else if (name === "unsubscribed") {
      this.#streams.delete(subscription);
      const error = new StreamingError("Not permitted any more", { code: "forbidden" });
      this.#host.refused(subscription, error);
    } else if (name === "restarting") {
      this.#retryAfter = message.data.details?.retry_after;
    } else if (name === "close") {
      this.#end({ ...message, retryAfter: this.#retryAfter });
    }
  }

  #retryAfter;
}
