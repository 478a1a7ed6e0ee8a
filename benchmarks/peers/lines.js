// Calls `take` with each line that comes in on a TCP port, and its number.
"use strict";

const net = require("node:net");

module.exports = function listenForLines(port, take) {
  net
    .createServer((publisher) => {
      let rest = "";
      let offset = 0;
      publisher.setEncoding("utf8");
      publisher.on("data", (chunk) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop();
        for (const line of lines) take(line, ++offset);
      });
      publisher.on("error", () => {});
    })
    .listen(port, "127.0.0.1");
};
