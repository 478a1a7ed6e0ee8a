/** One WebSocket of the client: authenticates, asks, and hands on what comes. */

import { StreamingError, deferred } from "./contract.js";

const OPEN = 1;
// Seconds for an answer when there is reason to think that the network is gone.
const SHORT_PATIENCE = 3;
// Errors after which the same request may be tried again.
const TRY_AGAIN = new Set(["rate_limited", "unavailable"]);

/** The connection has gone while an answer was awaited. */
class Lost extends Error {}

/**
 * @typedef {object} Host what a transport needs of the client
 * @property {string} url
 * @property {object} options
 * @property {() => Promise<string | null>} token
 * @property {() => Iterable<import("./subscription.js").Subscription>} subscriptions
 * @property {() => void} opened
 * @property {(milliseconds: number) => void} measured
 * @property {(subscription: object, error: StreamingError) => void} refused
 */

export class WebSocketTransport {
  static kind = "websocket";

  #host;
  #socket = null;
  #ended = deferred();
  #ending = { opened: false };
  // The request that waits for its answer: one at a time.
  #asked = null;
  #asking = Promise.resolve();
  #number = 0;
  #heard = 0;
  #heartbeat = null;
  // The subscriptions that the server has been asked for on this connection.
  #known = new Set();

  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
  }

  /** Connect and stay until the connection ends. @returns {Promise<import("./contract.js").Ending>} */
  async run() {
    try {
      await this.#connect();
      await this.#authenticate();
      await this.sync();
      if (this.#socket) this.#opened();
    } catch (error) {
      if (!(error instanceof Lost)) this.#end({ error });
    }
    return this.#ended.promise;
  }

  /** Cut the connection. */
  stop() {
    this.#end({});
  }

  /** Find out soon whether the connection is still there. */
  wake() {
    if (this.#ending.opened) this.#ping(SHORT_PATIENCE);
  }

  // Connecting

  async #connect() {
    const { url, options } = this.#host;
    const opened = deferred();
    let unreachable = true;
    const socket = (this.#socket = new options.WebSocket(url));
    const timer = setTimeout(() => this.#end({ unreachable }), options.connectTimeout * 1000);
    socket.onopen = () => {
      unreachable = false;
      opened.resolve();
    };
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#end({ code, reason, unreachable });
    await Promise.race([opened.promise, this.#ended.promise]);
    clearTimeout(timer);
    if (!this.#socket) throw new Lost();
  }

  async #authenticate() {
    let token;
    try {
      token = await this.#host.token();
    } catch (error) {
      this.#end({ reason: error.message });
      throw new Lost();
    }
    if (token === null) return;
    const reply = await this.#ask({ type: "auth", data: { token } });
    if (reply.type === "auth_success") return;
    if (reply.data.code === "unavailable") {
      this.#end({ retryAfter: reply.data.details?.retry_after ?? 1 });
      throw new Lost();
    }
    throw new StreamingError(reply.data.error, { code: reply.data.code });
  }

  #opened() {
    this.#ending.opened = true;
    this.#host.opened();
    this.#heartbeat = setInterval(
      () => this.#ping(this.#host.options.answerTimeout),
      this.#host.options.heartbeat * 1000,
    );
  }

  async #ping(patience) {
    const sent = performance.now();
    try {
      const { data } = await this.#ask({ type: "ping" }, patience);
      this.#host.measured(performance.now() - sent);
      for (const [id, position] of Object.entries(data?.positions ?? {})) {
        for (const subscription of this.#sharing(id)) subscription.reach(position);
      }
    } catch {
      // The connection has ended, which run() tells.
    }
  }

  // Subscriptions

  /** Ask for the subscriptions that the server does not know, until there is none. */
  async sync() {
    let subscription;
    while ((subscription = this.#next())) {
      this.#known.add(subscription);
      await this.#subscribe(subscription);
    }
  }

  /** The next to ask for: of equal ones the furthest behind first, since that one is replayed. */
  #next() {
    const unknown = [...this.#host.subscriptions()].filter(
      (subscription) => !this.#known.has(subscription) && !subscription.paused,
    );
    const offset = ({ received }) => received?.offset ?? Infinity;
    return unknown.sort((one, other) => offset(one) - offset(other))[0];
  }

  async #subscribe(subscription) {
    const others = () =>
      this.#sharing(subscription.wireId).filter((other) => other !== subscription);
    if (!others().length) subscription.wireId = subscription.id;
    const request = () => ({
      type: "subscribe",
      data: subscription.request(),
      subscription_id: subscription.wireId,
    });
    const wasShared = others().length > 0;
    const reply = await this.#askPatiently(request, ({ type, subscription_id: id, data }) => {
      // At once: messages follow it.
      if (type !== "subscribed") return;
      subscription.wireId = id;
      // An equal one was there already, so the server has ignored from where to go on.
      if (others().length && !wasShared) subscription.join(data);
      else subscription.begin(data);
    });
    if (reply.type !== "subscribed") {
      this.#known.delete(subscription);
      const { error, code, details } = reply.data;
      this.#host.refused(subscription, new StreamingError(error, { code, details }));
    }
  }

  /** Ask for a subscription. */
  async subscribe() {
    if (this.#ending.opened) await this.sync().catch(ignoreLost);
  }

  /** Tell the server that a subscription has ended, unless an equal one goes on. */
  async unsubscribe(subscription) {
    if (!this.#known.delete(subscription)) return;
    if (!this.#sharing(subscription.wireId).length) await this.#drop(subscription.wireId);
  }

  /** Take a subscription up again that was paused, from where it was. */
  async resume(subscription) {
    // An equal one that went on is replayed too, and drops what it knows.
    if (this.#sharing(subscription.wireId).length) await this.#drop(subscription.wireId);
    await this.subscribe();
  }

  async #drop(id) {
    const request = { type: "unsubscribe", data: { subscription_id: id } };
    await this.#askPatiently(() => request).catch(ignoreLost);
  }

  #sharing(id) {
    return [...this.#known].filter(({ wireId }) => wireId === id);
  }

  // Requests and answers

  /** Ask, and again while the server wants to be asked later. */
  async #askPatiently(request, onAnswer) {
    for (;;) {
      const reply = await this.#ask(request(), this.#host.options.answerTimeout, onAnswer);
      if (reply.type !== "error" || !TRY_AGAIN.has(reply.data.code)) return reply;
      await Promise.race([pause(reply.data.details?.retry_after ?? 1), this.#ended.promise]);
    }
  }

  /** Send a request and return its answer, after the requests before it. Throws `Lost`. */
  #ask(message, patience = this.#host.options.answerTimeout, onAnswer = undefined) {
    const answer = this.#asking.then(() => this.#exchange(message, patience, onAnswer));
    this.#asking = answer.catch(() => {});
    return answer;
  }

  async #exchange(message, patience, onAnswer) {
    if (this.#socket?.readyState !== OPEN) throw new Lost();
    const answer = deferred();
    this.#asked = { request: ++this.#number, onAnswer, ...answer };
    this.#socket.send(JSON.stringify({ ...message, metadata: { request: this.#number } }));
    const timer = this.#watch(patience);
    try {
      return await answer.promise;
    } finally {
      clearInterval(timer);
      this.#asked = null;
    }
  }

  /** End the connection if for so many seconds nothing at all is heard. */
  #watch(patience) {
    let heard = this.#heard;
    return setInterval(() => {
      if (heard === this.#heard) this.#end({ reason: "no answer" });
      heard = this.#heard; // the answer is behind much else
    }, patience * 1000);
  }

  #take(message) {
    this.#heard += 1;
    const { type, metadata, data, subscription_id: id } = message;
    if (type === "data") {
      for (const subscription of this.#sharing(id)) subscription.take(message);
    } else if (this.#isAnswer(type, metadata, data)) {
      this.#asked.onAnswer?.(message);
      this.#asked.resolve(message);
    } else if (type === "error" && data.code === "data_lost") {
      const { from: first, to: last, reason } = data.details ?? {};
      for (const subscription of this.#sharing(id)) subscription.lose({ reason, first, last });
    } else if (type === "error" && data.code === "restarting") {
      this.#ending.retryAfter = data.details?.retry_after;
    } else if (type === "unsubscribed") {
      this.#forbid(id);
    }
  }

  #isAnswer(type, metadata, data) {
    if (!this.#asked) return false;
    // The rate limit refuses messages unread.
    if (type === "error" && data.code === "rate_limited") return true;
    return metadata?.request === this.#asked.request;
  }

  #forbid(id) {
    for (const subscription of this.#sharing(id)) {
      this.#known.delete(subscription);
      const error = new StreamingError("Not permitted any more", { code: "forbidden" });
      this.#host.refused(subscription, error);
    }
  }

  #end(ending) {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#heartbeat);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.#asked?.reject(new Lost());
    this.#ended.resolve({ ...this.#ending, ...ending });
  }
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

function ignoreLost(error) {
  if (!(error instanceof Lost)) throw error;
}
