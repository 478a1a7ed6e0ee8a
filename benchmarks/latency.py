"""Latency: from publishing to arrival at each of 500 connections, at 20 messages a second.

The time of publishing is in the event; arrival is the kernel's time stamp at the client's socket.
Peers take turns of two seconds; the percentiles are of all deliveries of a run. A server that does
not keep up shows in "within 1 s", and its percentiles only say how long the turn was.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from functools import partial

from benchmarks import report
from benchmarks.bench import Bench, Usage
from benchmarks.peers import Peer
from benchmarks.report import count, percent, ratio
from benchmarks.runs import Figures, Section, in_rounds

TURN = 2.0
LIMIT = 60.0
IN_TIME = 1_000_000_000
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Latency(Bench):
    """A peer, and what it took for its deliveries so far."""

    def __init__(
        self, peer: Peer, options: argparse.Namespace, ending: contextlib.ExitStack
    ) -> None:
        super().__init__(peer, options.connections, ending)
        self.rate: int = options.rate
        self.turns: int = options.turns
        self.nanoseconds: list[int] = []
        self.usage: list[Figures] = []

    def measure(self) -> Figures | None:
        """Publish for one turn; return the figures of all turns after the last."""
        usage = Usage(self)
        messages = int(self.rate * TURN)
        self.publisher.order("rate", messages, self.rate)
        found = self.fleet.latencies(messages, time.monotonic() + LIMIT)
        self.usage.append(usage.figures(len(found)))
        self.publisher.answer()
        self.nanoseconds += found
        if len(self.usage) < self.turns:
            return None
        self.nanoseconds.sort()
        return {
            "deliveries": len(self.nanoseconds),
            **{name: percentile(self.nanoseconds, at) for name, at in PERCENTILES.items()},
            "in_time": sum(n < IN_TIME for n in self.nanoseconds) / len(self.nanoseconds),
            **{
                name: sum(figures[name] for figures in self.usage) / self.turns
                for name in ("server", "load", "publisher")
            },
        }


def percentile(ordered: Sequence[int], share: float) -> float:
    """Return a percentile of nanoseconds in milliseconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6


def latency_table(title: str, peers: dict[str, Figures]) -> str:
    """Return the table of percentiles."""
    ours = peers.get(report.OURS, {}).get("p99")
    columns = ["peer", "deliveries", *(f"{name} ms" for name in PERCENTILES)]
    columns += [f"{report.OURS}'s p99 is", "within 1 s", "server", "load gen", "publisher"]
    rows = [
        [
            name,
            count(row["deliveries"]),
            *(f"{row[key]:,.2f}" for key in PERCENTILES),
            ratio(ours, row["p99"]),
            *(percent(row[key]) for key in ("in_time", "server", "load", "publisher")),
        ]
        for name, row in peers.items()
    ]
    return report.table(title, columns, rows)


def main() -> None:
    """Measure and print."""
    names = ["realtime", "textbook", "gather", "broadcast", "ws", "socketio", "nchan"]
    parser = report.parser(__doc__, names, runs=3)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--rate", type=int, default=20, help="messages a second")
    parser.add_argument("--turns", type=int, default=0, help="in a run: 6, with --quick 2")
    options = report.begin(parser)
    options.turns = options.turns or (2 if options.quick else 6)
    starters = {peer.name: partial(Latency, peer, options) for peer in options.present}
    section = Section("publish to arrival", Latency.measure, options.turns)
    medians = in_rounds(options, starters, [section])
    tables = [latency_table(title, peers) for title, peers in medians.items()]
    settings = {"connections": options.connections, "messages a second": options.rate}
    report.finish("latency", options, settings, medians, tables)


if __name__ == "__main__":
    main()
