// A broadcast server with Socket.IO: PORT INTAKE. Clients with the usual subscription are in one
// room, for which the library encodes once; one with an id of its own gets its own emit().
"use strict";

const { Server } = require("socket.io");
const listenForLines = require("./lines.js");

const [port, intake] = process.argv.slice(2).map(Number);
const http = require("node:http").createServer();
const io = new Server(http, { transports: ["websocket"], pingInterval: 3_600_000 });
const named = new Map(); // socket -> subscription id, if it chose one

io.use((socket, next) => {
  next(socket.handshake.auth.token === "benchmark" ? undefined : new Error("unauthorized"));
});

io.on("connection", (socket) => {
  socket.on("subscribe", (message) => {
    const id = message.subscription_id;
    if (id) named.set(socket, id);
    else socket.join("events");
    socket.emit("subscribed", { subscription_id: id ?? "events" });
  });
  socket.on("disconnect", () => named.delete(socket));
});

listenForLines(intake, (line, offset) => {
  const message = {
    type: "data",
    data: { event: JSON.parse(line), subscription_type: "events" },
    timestamp: new Date().toISOString(),
    metadata: { epoch: "benchmark", offset },
  };
  io.to("events").emit("data", { ...message, subscription_id: "events" });
  for (const [socket, id] of named) socket.emit("data", { ...message, subscription_id: id });
});

http.listen(port, "127.0.0.1");
