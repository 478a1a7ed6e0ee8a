// A program that uses the client as it is told: commands come as JSON lines on standard input, and
// everything that happens goes as JSON lines to standard output.

import { createInterface } from "node:readline";

import { StreamingClient } from "../../../realtime/static/realtime/client.js";

const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
const subscriptions = new Map();
const iterators = new Map();
let client;

function connect({ url, token, tokens, options }) {
  const next = () => {
    const given = tokens.shift();
    say({ asked: "token" });
    if (given === null) throw new Error("no token now");
    return given;
  };
  client = new StreamingClient(url, tokens ? async () => next() : token, options);
  client.addEventListener("state", ({ detail: { error, ...rest } }) =>
    say({ ...rest, transport: client.transport, error: error?.message }),
  );
  client.addEventListener("gap", ({ detail: { subscription, ...gap } }) =>
    say({ gap, of: subscription.id }),
  );
  client.addEventListener("error", ({ detail: { subscription, error } }) =>
    say({ failed: subscription.id, error: error.message, code: error.code }),
  );
}

function subscribe({ type, filters, options = {}, iterate, quiet, fail }) {
  const callback = (data, message) => {
    if (!quiet || message.payload[quiet]) {
      say({ of: subscription.id, n: message.payload.n, data, position: message.position });
    }
    if (fail) throw new Error("the callback fails");
  };
  const subscription = iterate
    ? client.subscribe(type, filters, options)
    : client.subscribe(type, filters, callback, options);
  subscriptions.set(subscription.id, subscription);
  if (iterate) iterators.set(subscription.id, subscription[Symbol.asyncIterator]());
  subscription.ready.then(
    (answer) =>
      say({ ready: subscription.id, explanation: subscription.explanation, ...answer }),
    (error) => say({ refused: subscription.id, error: error.message, code: error.code }),
  );
}

/** Take messages of an iterated subscription. */
async function take({ id, count }) {
  const taken = [];
  try {
    for (let number = 0; number < count; number += 1) {
      const { done, value } = await iterators.get(id).next();
      if (done) break;
      taken.push(value.payload.n);
    }
    say({ taken, position: subscriptions.get(id).position });
  } catch (error) {
    say({ taken, error: error.message, code: error.code });
  }
}

const commands = {
  connect,
  subscribe,
  take,
  unsubscribe: ({ id }) => client.unsubscribe(id),
  close: () => client.close(),
  show: () =>
    say({
      state: client.state,
      ids: [...client.subscriptions.keys()],
      positions: [...subscriptions.values()].map(({ position }) => position),
    }),
  // Nothing keeps the program then but what the client left.
  end: () => process.stdin.destroy(),
};

process.on("uncaughtException", (error) => say({ uncaught: error.message }));
const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  const { do: name, ...values } = JSON.parse(line);
  commands[name](values);
});
