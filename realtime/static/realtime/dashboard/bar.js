/** The bar at the top: the connection's state in words, how far behind the page is, what was lost. */

import { element, timeElement } from "./dom.js";

const NOTICES = 20;
// Milliseconds after which the age of the newest message says nothing about the connection.
const FRESH = 5000;

export class Bar {
  #root;
  #notices;
  #state = { state: "connecting" };
  #retryAt = 0;
  #lag = null;
  #heardAt = 0;
  #latency = null;
  #unseen = 0;
  #paused = false;

  /**
   * @param {HTMLElement} root
   * @param {HTMLElement} notices a list
   */
  constructor(root, notices) {
    this.#root = root;
    this.#notices = notices;
  }

  /** Show a state of the client: the detail of its "state" event. */
  set state(detail) {
    this.#state = detail;
    this.#retryAt = detail.retryIn ? Date.now() + detail.retryIn * 1000 : 0;
    if (detail.state !== "open") this.#lag = null;
  }

  /** Show a round trip to the server, in milliseconds. */
  set latency(latency) {
    this.#latency = latency;
  }

  set paused(paused) {
    this.#paused = paused;
    this.#unseen = 0;
  }

  /** Take note of a message that has just come. */
  heard(message, now) {
    if (!message.replayed) this.#lag = Math.max(0, now - message.time);
    this.#heardAt = now;
    if (this.#paused) this.#unseen += 1;
  }

  /** Add a line to what people should know. */
  notice(text, severity = "warning") {
    const line = element("li", { "data-severity": severity }, timeElement(Date.now()), ` ${text}`);
    this.#notices.prepend(line);
    while (this.#notices.children.length > NOTICES) this.#notices.lastElementChild.remove();
    this.#notices.parentElement.hidden = false;
  }

  /** Forget what people have been told. */
  clearNotices() {
    this.#notices.replaceChildren();
    this.#notices.parentElement.hidden = true;
  }

  /** Show it all. */
  draw(now) {
    const state = this.#root.querySelector("#state");
    state.dataset.state = this.#state.state;
    setText(state, this.#describe(now));
    setText(this.#root.querySelector("#lag"), this.#describeLag(now));
    const pause = this.#root.querySelector("#pause");
    const unseen = this.#unseen ? ` (${this.#unseen.toLocaleString()} new)` : "";
    setText(pause, this.#paused ? `Resume${unseen}` : "Pause");
    pause.setAttribute("aria-pressed", String(this.#paused));
  }

  #describe(now) {
    const { state, error, code, reason = error?.message } = this.#state;
    const seconds = Math.ceil((this.#retryAt - now) / 1000);
    const when = seconds > 0 ? ` in ${seconds} s` : "…";
    if (state === "open") return this.#state.transport === "sse" ? "live over HTTP" : "live";
    if (state === "recovering") return `reconnecting${when}`;
    if (state === "connecting") return `connecting${when}`;
    return `closed${reason ? `: ${reason}` : ""}${code ? ` (${code})` : ""}`;
  }

  #describeLag(now) {
    const parts = [];
    if (this.#lag !== null && now - this.#heardAt < FRESH) parts.push(`lag ${spell(this.#lag)}`);
    if (this.#latency !== null) parts.push(`round trip ${spell(this.#latency)}`);
    return parts.join(" · ");
  }
}

/** Change a text only if it has changed: screen readers read each change. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function spell(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
