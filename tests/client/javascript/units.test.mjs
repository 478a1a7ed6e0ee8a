// The pure parts of the client and of the dashboard.

import assert from "node:assert/strict";
import { test } from "node:test";

import { StreamingError, backoffDelay, finalError } from "../../../realtime/static/realtime/contract.js";
import { EventParser, positionOf } from "../../../realtime/static/realtime/event_source.js";
import { explained, parseFilters } from "../../../realtime/static/realtime/dashboard/filters.js";
import { Results, resultOf } from "../../../realtime/static/realtime/dashboard/results.js";
import { Fields, Series, leaves, valueAt } from "../../../realtime/static/realtime/dashboard/series.js";

test("pauses double up to the most, and are anything from 0 on", () => {
  for (const [failed, most] of [[0, 0.5], [1, 1], [2, 2], [5, 16], [6, 30], [1000, 30]]) {
    assert.equal(backoffDelay(failed, [0.5, 30], () => 1), most);
    assert.equal(backoffDelay(failed, [0.5, 30], () => 0), 0);
    assert.equal(backoffDelay(failed, [0.5, 30], () => 0.5), most / 2);
  }
});

test("which endings are final", () => {
  const error = new StreamingError("Invalid credentials");
  assert.equal(finalError({ error }, false), error);
  for (const code of [1002, 1007, 1008, 1009]) {
    assert.equal(finalError({ code, reason: "why" }, true).code, code);
  }
  for (const code of [undefined, 1000, 1001, 1006, 1011, 1012, 1013]) {
    assert.equal(finalError({ code }, false), undefined);
  }
  assert.equal(finalError({ code: 1008, reason: "token expired" }, true), undefined);
  assert.equal(finalError({ code: 1008, reason: "token expired" }, false).message, "token expired");
});

const STREAM = [
  "\uFEFF: a comment\n",
  "retry: 10\r\nevent: subscribed\r\nid: e:1\r\ndata: {}\r\n\r\n",
  "data: first\rdata:second\rdata:  third\r\r",
  "id: e:2\n\n",
  "unknown: x\nid\nevent: odd\n\n",
  "id: a\0b\ndata: ü\n\n",
  "data: unfinished",
].join("");
const EVENTS = [
  { name: "subscribed", id: "e:1", data: "{}" },
  { name: "", id: "e:1", data: "first\nsecond\n third" },
  { name: "", id: "e:2", data: "" },
  { name: "odd", id: "", data: "" },
  { name: "", id: "", data: "ü" },
];

test("an event stream is read the same wherever it is cut", () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let size = 1; size <= bytes.length; size += 1) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < bytes.length; at += size) {
      events.push(...parser.push(bytes.subarray(at, at + size)));
    }
    assert.deepEqual(events, EVENTS, `in pieces of ${size}`);
  }
});

test("an event without end is an error", () => {
  const parser = new EventParser();
  const piece = new TextEncoder().encode("data: " + "x".repeat(1 << 20) + "\n");
  assert.throws(() => {
    for (let number = 0; number < 20; number += 1) [...parser.push(piece)];
  }, RangeError);
});

test("positions in ids", () => {
  assert.deepEqual(positionOf("a:b:12"), { epoch: "a:b", offset: 12 });
  for (const id of ["", ":1", "x", null, undefined]) assert.equal(positionOf(id), null);
});

test("filters as people type them", () => {
  for (const [text, filters] of [
    ["", {}],
    ["  ", {}],
    ["a=1", { a: 1 }],
    ["a=x b.c=true  d=null", { a: "x", "b.c": true, d: null }],
    ['a="x y" b="\\"" ', { a: "x y", b: '"' }],
    ['a=["x", 2]', { a: ["x", 2] }],
    ["a=1 a=2", { a: [1, 2] }],
    ["a=b=c", { a: "b=c" }],
    ['{"a": [1]}', { a: [1] }],
    ['a={"gte": 60, "lt": 80} b=1', { a: { gte: 60, lt: 80 }, b: 1 }],
    ['a={"prefix":"}{ \\""} b=1', { a: { prefix: '}{ "' }, b: 1 }],
    ['{"$or": [{"a": 1}, {"b": {"gt": 2}}]}', { $or: [{ a: 1 }, { b: { gt: 2 } }] }],
    ['$or=[{"a":1}]', { $or: [{ a: 1 }] }],
    ["a={bad", { a: "{bad" }],
  ]) {
    assert.deepEqual(parseFilters(text), filters, text);
  }
  const wrong = ["a", "=1", "a=", "a b=1", '{"a"', 'a="x', "a=[1", 'a={"gt":1} a=2', 'a={"gt": 1'];
  for (const text of wrong) {
    assert.throws(() => parseFilters(text), SyntaxError, text);
  }
  assert.equal(Object.getPrototypeOf(parseFilters("__proto__=1")), Object.prototype);
});

test("what a filter matches, in words", () => {
  const paths = { "a.b": { present: 3, matching: 2 } };
  assert.deepEqual(explained({ retained: 5, matching: 2, paths }), [
    "2 of the newest 5 messages match",
    "path a.b: present in 3, matches in 2",
  ]);
  const or = [{ matching: 1, paths }, { matching: 0, paths: {}, or: [{ matching: 0, paths }] }];
  assert.deepEqual(explained({ retained: 0, matching: 0, paths: {}, or }).slice(1), [
    "alternative 1: matches in 1",
    "alternative 1, path a.b: present in 3, matches in 2",
    "alternative 2: matches in 0",
    "alternative 2, alternative 1: matches in 0",
    "alternative 2, alternative 1, path a.b: present in 3, matches in 2",
  ]);
});

test("fields of payloads", () => {
  assert.deepEqual([...leaves({ a: 1, b: { c: "x", d: [1] }, e: null })], [
    ["a", 1],
    ["b.c", "x"],
    ["e", null],
  ]);
  const fields = new Fields();
  assert.equal(fields.learn({ round: 1, count: 2, mean_delay: 3, airport: "JFK" }), true);
  assert.equal(fields.learn({ round: 1, count: 2, mean_delay: 3, airport: "JFK" }), false);
  assert.deepEqual(fields.numbers, ["count", "mean_delay"]);
  assert.equal(fields.telling, "mean_delay");
  assert.deepEqual(fields.groups, []);
  assert.equal(fields.learn({ airport: "LGA" }), true);
  assert.deepEqual(fields.groups, ["airport"]);
  for (let number = 0; number < 50; number += 1) fields.learn({ airport: `A${number}` });
  assert.deepEqual(fields.groups, []);
  assert.equal(valueAt({ a: { b: 2 } }, "a.b"), 2);
  assert.equal(valueAt(null, "a.b"), undefined);
});

test("series are means over spans, in order, and forget", () => {
  const series = new Series(1000, 10);
  series.add("x", 250, 4);
  series.add("x", 120, 1);
  series.add("x", 130, 3);
  assert.deepEqual(series.points("x"), [{ x: 100, y: 2 }, { x: 200, y: 4 }]);
  series.trim(1150);
  assert.deepEqual(series.points("x"), [{ x: 200, y: 4 }]);
  series.trim(5000);
  assert.equal(series.byName.size, 0);
  for (let number = 0; number < 20; number += 1) series.add(`s${number}`, 1, 1);
  assert.deepEqual([series.byName.size, series.omitted.size], [8, 12]);
});

test("of a rule's results the newest windows are kept, in order, with bounds", () => {
  const results = new Results();
  const at = (hour) => new Date(hour * 3_600_000).toISOString();
  const take = (hour, values, group = {}) =>
    results.add(resultOf({ rule: "r", group, window: { start: at(hour - 1), end: at(hour) }, values }));
  const key = JSON.stringify(["r", "n"]);
  assert.equal(take(2, { n: 2, text: "x" }), true);
  assert.equal(take(1, { n: 1 }), false);
  assert.deepEqual([...results.choices], [[key, "r: n"]]);
  assert.deepEqual(results.curves(key, 9).curves[0].points.map(({ y }) => y), [1, 2]);
  for (let hour = 3; hour <= 300; hour += 1) take(hour, { n: hour });
  const { points, label } = results.curves(key, 1000).curves[0];
  assert.deepEqual([label, points.length, points[0].y, points.at(-1).y], ["r", 240, 61, 300]);
  assert.equal(results.curves(key, 12).curves[0].points.length, 12);
  take(300, Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`v${n}`, n])));
  assert.equal(results.choices.size, 32);
  assert.equal(resultOf({ rule: "r", group: { a: "x".repeat(999) }, window: {}, values: {} }), undefined);
  results.clear();
  assert.equal(results.telling, undefined);
});
