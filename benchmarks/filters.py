"""Filters: what an event costs that matches one of 10, 1,000 or 10,000 distinct filters.

They want an equal value, a prefix or a range, one kind after another. They are spread over 100
connections, and there is a server for each number of filters; these are measured by turns. Events
are published when those before have arrived, so that none wait together: one at a time, and ten at
a time to ten different connections, which leaves the filters a greater share of the cost. The CPU
is that of the process that holds the connections.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import report
from benchmarks.load import Fleet
from benchmarks.machine import cpu_seconds
from benchmarks.message import user
from benchmarks.peers import Peer, Subscription
from benchmarks.publisher import Publisher
from benchmarks.report import count, micro, percent, ratio
from benchmarks.runs import Figures, Medians, Section, in_rounds
from benchmarks.wire import LoadError

# What a filter wants of the user with a number: each event has one that it matches.
KINDS: dict[str, Callable[[int], Any]] = {
    "equal": user,
    "prefix": lambda number: {"prefix": user(number)},
    "range": lambda number: {"gte": user(number), "lt": user(number + 1)},
}
CLIENTS = 100
DISTINCT = (10, 1_000, 10_000)
TOGETHER = (1, 10)
# Exchanges in a round.
TIMES = 50


class Bench:
    """A server with so many distinct filters, and a publisher for each way of publishing."""

    def __init__(self, peer: Peer, kind: str, distinct: int, ending: contextlib.ExitStack) -> None:
        self.server = ending.enter_context(peer.running())
        self.fleet = Fleet(peer, self.server)
        ending.callback(self.fleet.close)
        self.fleet.open_each([filters_of(kind, client, distinct) for client in range(CLIENTS)])
        self.publishers: dict[int, Publisher] = {}
        for together in TOGETHER:
            # publish() when alone, publish_many() otherwise
            publishing = replace(self.server, publisher=["realtime", str(together)])
            directory = ending.enter_context(TemporaryDirectory())
            publisher = Publisher(publishing, Path(directory), users=distinct)
            ending.callback(publisher.stop)
            self.publishers[together] = publisher
            self.measure(together)

    def measure(self, together: int) -> Figures:
        """Publish events, of which each matches one filter."""
        publisher = self.publishers[together]
        cpu, load, used = cpu_seconds([self.server.main]), time.process_time(), publisher.cpu()
        start = time.monotonic()
        for _ in range(TIMES):
            self.exchange(together)
        seconds = time.monotonic() - start
        events = TIMES * together
        cpu = cpu_seconds([self.server.main]) - cpu
        return {
            "events": events,
            "cpu": cpu / events,
            "rate": events / seconds,
            "server": cpu / seconds,
            "load": (time.process_time() - load) / seconds,
            "publisher": (publisher.cpu() - used) / seconds,
        }

    def exchange(self, together: int) -> None:
        """Publish so many events and verify that each arrives where it belongs."""
        numbers = self.publishers[together].order("burst", together)
        received = self.fleet.drain(together)
        self.publishers[together].answer()
        events = []
        for client, messages in received.items():
            for message in messages:
                event = message["data"]["event"]
                events.append(event["event_id"])
                if int(event["user_id"].removeprefix("user_")) % CLIENTS != client:
                    raise LoadError(f"client {client} received {message}")
        if sorted(events) != [f"evt_{number:010d}" for number in numbers]:
            raise LoadError(f"events {numbers} expected, received {events}")


def filters_of(kind: str, client: int, distinct: int) -> list[Subscription]:
    """Return a client's share of so many filters; it may have none."""
    wanted = KINDS[kind]
    return [Subscription(filters={"user_id": wanted(n)}) for n in range(client, distinct, CLIENTS)]


def rows_of(found: dict[str, Figures]) -> list[list[str]]:
    """Return the rows of one table."""
    fewest = found.get(f"{DISTINCT[0]:,}", {}).get("cpu", 0)
    return [
        [
            distinct,
            count(row["events"]),
            micro(row["cpu"]),
            ratio(row["cpu"], fewest),
            count(row["rate"]),
            *(percent(row[key]) for key in ("server", "load", "publisher")),
        ]
        for distinct, row in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=5)
    parser.add_argument("--rounds", type=int, default=0, help="in a run: 20, with --quick 8")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = report.begin(parser, only=[report.OURS])
    rounds = options.rounds or (8 if options.quick else 20)
    medians: Medians = {}
    for kind in options.kinds:
        sections = [
            Section[Bench](
                f"{kind}, {together} at a time", partial(Bench.measure, together=together), rounds
            )
            for together in TOGETHER
        ]
        starters = {
            f"{distinct:,}": partial(Bench, peer, kind, distinct)
            for peer in options.present
            for distinct in DISTINCT
        }
        medians |= in_rounds(options, starters, sections)
    columns = ["distinct filters", "events", "server us/event", f"against {DISTINCT[0]}"]
    columns += ["events/s", "server", "load gen", "publisher"]
    tables = [report.table(title, columns, rows_of(found)) for title, found in medians.items()]
    settings = {"connections": CLIENTS, "rounds": rounds}
    report.finish("filters", options, settings, medians, tables)


if __name__ == "__main__":
    main()
