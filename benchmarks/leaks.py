"""Leaks: what a server holds after clients have come and gone, and after large messages.

First, cycles of connect, authenticate, subscribe, receive, disconnect, every other one without a
close frame; then messages of 500 KB to ten clients. Resident memory is compared with what it was
after a warm-up of a tenth of that. Only this project's server is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import closing

import django

from benchmarks import report
from benchmarks.load import Fleet
from benchmarks.machine import resident_bytes
from benchmarks.peers import Peer, Server, Subscription
from benchmarks.runs import Figures, one_by_one

AT_A_TIME = 100
LARGE = 500_000
SETTLE = 2.0


def measure(peer: Peer, options: argparse.Namespace) -> dict[str, Figures]:
    """Run both loads, each after a warm-up of a tenth of it."""
    with peer.running() as server:
        os.environ |= server.environment
        django.setup()
        sections = {}
        for title, count, load in (
            ("cycles of a client", options.cycles, cycles),
            ("messages of 500 KB", options.messages, large_messages),
        ):
            load(peer, server, count // 10)
            before = settled_bytes(server)
            began = time.monotonic()
            load(peer, server, count)
            seconds = time.monotonic() - began
            after = settled_bytes(server)
            sections[title] = {
                "count": float(count),
                "before": float(before),
                "after": float(after),
                "growth": float(after - before),
                "seconds": seconds,
            }
        return sections


def settled_bytes(server: Server) -> int:
    """Return the server's resident memory once those who left are forgotten."""
    time.sleep(SETTLE)
    return resident_bytes(server.main)


def cycles(peer: Peer, server: Server, count: int) -> None:
    """Let clients come, receive one message, and go; half of them without a close frame."""
    from realtime import publish

    for number in range(max(1, count // AT_A_TIME)):
        filters = {"n": number}
        fleet = Fleet(peer, server)
        with closing(fleet):
            fleet.open_each([[Subscription(filters=filters)]] * AT_A_TIME)
            publish("events", {"n": number})
            received = fleet.drain(AT_A_TIME)
            assert len(received) == AT_A_TIME
            fleet.say_goodbye(AT_A_TIME // 2)


def large_messages(peer: Peer, server: Server, count: int) -> None:
    """Publish large messages to ten clients, one after another."""
    from realtime import publish

    fleet = Fleet(peer, server)
    with closing(fleet):
        fleet.open_each([[Subscription()]] * 10)
        for number in range(count):
            publish("events", {"n": number, "text": "x" * LARGE})
            fleet.drain(10)


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=1)
    parser.add_argument("--cycles", type=int, default=0, help="default 20000; with --quick 2000")
    parser.add_argument("--messages", type=int, default=0, help="default 5000; with --quick 500")
    options = report.begin(parser, only=(report.OURS,))
    options.cycles = options.cycles or (2000 if options.quick else 20_000)
    options.messages = options.messages or (500 if options.quick else 5000)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    medians = one_by_one(options, lambda peer: measure(peer, options))
    columns = ["load", "count", "MB before", "MB after", "growth, MB", "seconds"]
    rows: list[Sequence[str]] = []
    for title, peers in medians.items():
        figures = peers[report.OURS]
        megabytes = [figures[name] / 1e6 for name in ("before", "after", "growth")]
        rows.append(
            [
                title,
                report.count(figures["count"]),
                *(f"{value:.1f}" for value in megabytes),
                f"{figures['seconds']:.0f}",
            ]
        )
    settings = {"cycles": options.cycles, "messages": options.messages}
    table = report.table("resident memory of the server", columns, rows)
    report.finish("leaks", options, settings, json.loads(json.dumps(medians)), [table])


if __name__ == "__main__":
    main()
