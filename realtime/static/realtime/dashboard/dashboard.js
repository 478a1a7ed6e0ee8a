/** The dashboard: connects, subscribes to all six types, and hands what comes to the panels. */

import { StreamingClient } from "../client.js";
import { AlertPanel } from "./alert_panel.js";
import { Bar } from "./bar.js";
import { ChartPanel } from "./chart_panel.js";
import {
  NotSignedIn,
  keepToken,
  pastedToken,
  takeTokenFromAddress,
  tokenOfUser,
} from "./credentials.js";
import { element } from "./dom.js";
import { EventPanel } from "./event_panel.js";
import { explained, parseFilters } from "./filters.js";
import { PredictionPanel } from "./prediction_panel.js";
import { Screen } from "./screen.js";
import { StatusPanel } from "./status_panel.js";

// Seconds between pings: the lag of the connection is shown.
const HEARTBEAT = 10;

const $ = (selector) => document.querySelector(selector);
const page = document.body.dataset;

const panels = {
  events: new EventPanel($("#events")),
  metrics: new ChartPanel($("#metrics")),
  aggregations: new ChartPanel($("#aggregations")),
  alerts: new AlertPanel($("#alerts")),
  predictions: new PredictionPanel($("#predictions")),
  system_status: new StatusPanel($("#system_status")),
};
const bar = new Bar($("#bar"), $("#notices ul"));
const screen = new Screen(Object.values(panels), bar);

let client = null;
/** Type -> its subscription. */
let subscriptions = {};
let filters = {};

// Connecting

function connect(token) {
  client?.close();
  // `pong`s count against the limit of messages a minute: one each ten seconds is a tenth of it.
  client = new StreamingClient(page.socket, token, { heartbeat: HEARTBEAT });
  const mine = client;
  client.addEventListener("state", ({ detail }) => {
    if (mine === client) showState(detail);
  });
  client.addEventListener("latency", ({ detail }) => {
    bar.latency = detail.latency;
  });
  client.addEventListener("gap", ({ detail }) => {
    const { subscription, reason, first, last } = detail;
    const which = first ? ` (offsets ${first} to ${last ?? "?"})` : "";
    bar.notice(`${subscription.type}: messages are lost${which}: ${reason}`);
  });
  subscriptions = {};
  for (const type of Object.keys(panels)) subscribe(type, Number($("#rewind").value));
  $("#sign-in").hidden = true;
  $("#panels").hidden = false;
}

function showState(detail) {
  bar.state = { ...detail, transport: client.transport };
  $("#sign-out").hidden = pastedToken() === null;
  if (detail.state === "closed") {
    const why = detail.error?.message ?? detail.reason ?? "the connection was closed";
    signIn(`Closed: ${why}${detail.code ? ` (${detail.code})` : ""}`);
  }
  screen.changed();
}

async function subscribe(type, rewind) {
  const wanted = type === "events" ? filters : {};
  const panel = panels[type];
  const explain = Object.keys(wanted).length > 0;
  const subscription = client.subscribe(type, wanted, (_, message) => take(panel, message), {
    rewind,
    explain,
  });
  subscriptions[type] = subscription;
  const root = $(`#${type}`);
  try {
    await subscription.ready;
    root.removeAttribute("data-refused");
    if (explain && subscriptions[type] === subscription) showExplanation(subscription.explanation);
  } catch (error) {
    if (subscriptions[type] === subscription) refuse(type, root, error);
  }
}

function take(panel, message) {
  const now = Date.now();
  const time = Date.parse(message.timestamp) || now;
  const taken = { payload: message.payload, position: message.position, time };
  panel.add(taken);
  // A message that is older than this was waiting to be fetched, not on its way.
  bar.heard({ time, replayed: now - time > 60_000 }, now);
  screen.changed();
}

function refuse(type, root, error) {
  if (error.code === "forbidden") root.dataset.refused = "This token does not allow it.";
  else if (type === "events") showFilterError(error.message);
  else if (client.state !== "closed") bar.notice(`${type}: ${error.message}`);
}

/** Subscribe anew, with the newest messages first. */
function again(types, rewind) {
  for (const type of types) {
    if (subscriptions[type]) client.unsubscribe(subscriptions[type]);
    panels[type].clear();
    subscribe(type, rewind);
  }
  screen.changed();
}

// Signing in

function signIn(why) {
  const alert = $("#sign-in .error");
  alert.textContent = why;
  alert.hidden = !why;
  $("#sign-in").hidden = false;
}

async function start() {
  takeTokenFromAddress();
  const token = pastedToken();
  if (token !== null) connect(token);
  else if (page.user) await connectAsUser();
  else signIn("");
}

async function connectAsUser() {
  const ask = tokenOfUser(page.tokenUrl, $("[name=csrfmiddlewaretoken]").value);
  const askOrEnd = async () => {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof NotSignedIn) {
        client.close();
        signIn(error.message);
      }
      throw error;
    }
  };
  connect(askOrEnd);
}

$("#sign-in form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = $("#token");
  const token = input.value.trim();
  input.value = "";
  if (!token) return;
  keepToken(token);
  connect(token);
});

$("#sign-out").addEventListener("click", () => {
  keepToken(null);
  client?.close();
  location.reload();
});

// Controls

function showFilterError(text) {
  const box = $("#filter");
  const error = $("#filter-error");
  error.textContent = text;
  error.hidden = !text;
  box.toggleAttribute("aria-invalid", Boolean(text));
  if (text) box.setAttribute("aria-invalid", "true");
}

/** Say what the filter matches; nothing without one, or from a server that does not tell. */
function showExplanation(explanation) {
  const said = $("#filter-explained");
  said.replaceChildren(
    ...(explanation ? explained(explanation).map((line) => element("li", {}, line)) : []),
  );
  said.hidden = !explanation;
}

$("#filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  showFilterError("");
  showExplanation(null);
  try {
    filters = parseFilters($("#filter").value);
  } catch (error) {
    showFilterError(error.message);
    return;
  }
  if (client) again(["events"], Number($("#rewind").value));
});

$("#pause").addEventListener("click", () => {
  screen.paused = !screen.paused;
  bar.paused = screen.paused;
});

$("#rewind").addEventListener("change", (event) => {
  if (client) again(Object.keys(panels), Number(event.target.value));
});

$("#clear-notices").addEventListener("click", () => bar.clearNotices());

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey) return;
  if (event.key === "p") $("#pause").click();
  else if (event.key === "/") {
    event.preventDefault();
    $("#filter").focus();
  }
});

start();
