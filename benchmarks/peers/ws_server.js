// A broadcast server with `ws`: PORT INTAKE. Encodes once per subscription id, then one send()
// for each client.
"use strict";

const { WebSocketServer } = require("ws");
const listenForLines = require("./lines.js");

const [port, intake] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({ host: "127.0.0.1", port, perMessageDeflate: false });
const subscribers = new Map(); // subscription id -> clients

server.on("connection", (client) => {
  let id = null;
  client.on("message", (text) => {
    const message = JSON.parse(text);
    if (message.type === "auth" && message.data.token === "benchmark") {
      client.send(JSON.stringify({ type: "auth_success", data: { client_id: "1" } }));
    } else if (message.type === "subscribe") {
      id = message.subscription_id ?? "events";
      if (!subscribers.has(id)) subscribers.set(id, new Set());
      subscribers.get(id).add(client);
      client.send(JSON.stringify({ type: "subscribed", subscription_id: id }));
    }
  });
  client.on("error", () => {});
  client.on("close", () => {
    const clients = subscribers.get(id);
    clients?.delete(client);
    if (clients?.size === 0) subscribers.delete(id);
  });
});

listenForLines(intake, (event, offset) => {
  const head =
    `{"type":"data","data":{"event":${event},"subscription_type":"events"},` +
    `"timestamp":"${new Date().toISOString()}",` +
    `"metadata":{"epoch":"benchmark","offset":${offset}},"subscription_id":"`;
  for (const [id, clients] of subscribers) {
    const message = Buffer.from(`${head}${id}"}`);
    for (const client of clients) client.send(message, { binary: false });
  }
});
