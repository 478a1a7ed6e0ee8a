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
  // The wire ids that the server has been asked for on this connection.
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
    // Some platforms tell of a failed attempt only with an error.
    socket.onerror = () => unreachable && this.#end({ unreachable });
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
    const reply = await this.#ask(() => ({ type: "auth", data: { token } }));
    if (reply.type === "auth_success") return;
    if (reply.data.code === "unavailable") {
      this.#end({ retryAfter: reply.data.details?.retry_after ?? 1 });
      throw new Lost();
    }
    throw errorOf(reply);
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
      const { data } = await this.#ask(() => ({ type: "ping" }), undefined, patience);
      this.#host.measured(performance.now() - sent);
      for (const [id, position] of Object.entries(data?.positions ?? {})) {
        for (const subscription of this.#members(id)) subscription.advance(position);
      }
    } catch {
      // The connection has ended, which run() tells.
    }
  }

  // Subscriptions

  // Equal subscriptions of one client are one to the server: they share a wire id, and with it one
  // request and its messages, of which each takes those it does not have.

  /** The subscriptions that take the messages under a wire id. */
  #members(wireId) {
    return [...this.#host.subscriptions()].filter((one) => one.wireId === wireId && !one.paused);
  }

  /** Ask for everything that the server does not know. */
  async sync() {
    const isMissing = ({ wireId, paused }) => !paused && !this.#known.has(wireId);
    let subscription;
    while ((subscription = [...this.#host.subscriptions()].find(isMissing))) {
      await this.#subscribe(subscription.wireId);
    }
  }

  async #subscribe(wireId) {
    this.#known.add(wireId);
    let isBehind = false;
    // At once, since messages follow it.
    const begin = ({ type, subscription_id: id, data }) => {
      if (type !== "subscribed") return;
      const members = this.#members(wireId);
      if (id === wireId) {
        for (const subscription of members) subscription.begin(data);
        return;
      }
      // The server has an equal one already, and has ignored from where to go on.
      this.#known.delete(wireId);
      isBehind = members.some(({ received }) => received);
      for (const subscription of members) subscription.join(id, data);
    };
    const reply = await this.#ask(() => subscribeRequest(wireId, this.#members(wireId)), begin);
    if (reply?.type === "error") this.#refuse(wireId, errorOf(reply));
    if (isBehind) await this.#drop(reply.subscription_id);
  }

  /** End what is under a wire id: because of an error, or since it is not wanted. */
  #refuse(wireId, error) {
    this.#known.delete(wireId);
    for (const subscription of this.#members(wireId)) this.#host.refused(subscription, error);
  }

  /** Ask for what is new. */
  async subscribe() {
    if (this.#ending.opened) await this.sync().catch(ignoreLost);
  }

  /** Tell the server that a subscription has ended, unless an equal one goes on. */
  async unsubscribe({ wireId }) {
    if (!this.#members(wireId).length) await this.#drop(wireId).catch(ignoreLost);
  }

  /** Take a subscription up again that was paused, from where it was; equal ones with it. */
  async resume(subscription) {
    // Until the old ones have passed, no message would be the next.
    await this.#drop(subscription.wireId).catch(ignoreLost);
    await this.#asking;
    subscription.restart();
    await this.subscribe();
  }

  async #drop(wireId) {
    if (!this.#known.delete(wireId)) return;
    await this.#ask(() => ({ type: "unsubscribe", data: { subscription_id: wireId } }));
  }

  // Requests and answers

  /**
   * Send what `request` makes and return its answer, after the requests before it; nothing if it
   * makes nothing. Asks again while the server wants to be asked later.
   *
   * @throws {Lost}
   */
  #ask(request, onAnswer = undefined, patience = this.#host.options.answerTimeout) {
    const answer = this.#asking.then(async () => {
      for (;;) {
        const message = request();
        const reply = message && (await this.#exchange(message, patience, onAnswer));
        if (reply?.type !== "error" || !TRY_AGAIN.has(reply.data.code)) return reply;
        await Promise.race([pause(reply.data.details?.retry_after ?? 1), this.#ended.promise]);
      }
    });
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
      for (const subscription of this.#members(id)) subscription.take(message);
    } else if (type === "data_batch") {
      for (const one of unpack(data)) {
        for (const subscription of this.#members(id)) subscription.take(one);
      }
    } else if (this.#isAnswer(type, metadata, data)) {
      this.#asked.onAnswer?.(message);
      this.#asked.resolve(message);
    } else if (type === "error" && data.code === "data_lost") {
      const { from: first, to: last, reason } = data.details ?? {};
      for (const subscription of this.#members(id)) subscription.lose({ reason, first, last });
    } else if (type === "error" && data.code === "restarting") {
      this.#ending.retryAfter = data.details?.retry_after;
    } else if (type === "unsubscribed") {
      this.#refuse(id, new StreamingError("Not permitted any more", { code: "forbidden" }));
    }
  }

  #isAnswer(type, metadata, data) {
    if (!this.#asked) return false;
    // The rate limit refuses messages unread.
    if (type === "error" && data.code === "rate_limited") return true;
    return metadata?.request === this.#asked.request;
  }

  #end(ending) {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#heartbeat);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close();
    }
    this.#asked?.reject(new Lost());
    this.#ended.resolve({ ...this.#ending, ...ending });
  }
}

/** The messages of a batch, as they would have come one by one. */
function unpack({ subscription_type: type, messages }) {
  return messages.map(({ timestamp, metadata, ...payload }) => ({
    data: { ...payload, subscription_type: type },
    timestamp,
    metadata,
  }));
}

/** The request for a wire id: from where the furthest behind is, which the others have. */
function subscribeRequest(wireId, members) {
  const place = ({ received }) => received?.offset ?? Infinity;
  const [first] = members.sort((one, other) => place(one) - place(other));
  return first && { type: "subscribe", data: first.request(), subscription_id: wireId };
}

function errorOf({ data: { error, code, details } }) {
  return new StreamingError(error, { code, details });
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

function ignoreLost(error) {
  if (!(error instanceof Lost)) throw error;
}
