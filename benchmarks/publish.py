"""Publishing: messages per second into the system from one process.

One client is subscribed and verifies that every message arrives, in order. ``group_send`` is that
of the textbook peer's channel layer: awaited in one event loop, or called by ``async_to_sync`` as
synchronous code would.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import report
from benchmarks.load import Fleet
from benchmarks.peers import Peer, Server
from benchmarks.publisher import Publisher
from benchmarks.report import count, micro, percent, ratio
from benchmarks.runs import Figures, one_by_one

SINGLE = "publish(), each message"
# Peer -> way of publishing -> arguments added to the publisher's, messages.
WAYS: dict[str, dict[str, tuple[list[str], int]]] = {
    "realtime": {
        SINGLE: (["1"], 10_000),
        "publish_many(), batches of 10": (["10"], 50_000),
        "publish_many(), batches of 100": (["100"], 100_000),
        "publish_many(), batches of 1,000": (["1000"], 100_000),
    },
    "textbook": {
        "group_send, awaited": (["events", "loop"], 5_000),
        "group_send, async_to_sync": (["events", "sync"], 1_000),
    },
}


def measure(peer: Peer, options: argparse.Namespace) -> dict[str, Figures]:
    """Publish in all the ways that the peer has."""
    with peer.running() as server:
        return {
            way: measure_way(
                peer, _with(server, arguments), messages // (5 if options.quick else 1)
            )
            for way, (arguments, messages) in WAYS[peer.name].items()
        }


def _with(server: Server, arguments: list[str]) -> Server:
    # What the server's own arguments end with, the batch, gives way.
    kept = server.publisher[:1] if server.publisher[0] == "realtime" else server.publisher
    return replace(server, publisher=[*kept, *arguments])


def measure_way(peer: Peer, server: Server, messages: int) -> Figures:
    """Publish *messages* to one subscribed client."""
    with contextlib.ExitStack() as ending, TemporaryDirectory() as directory:
        publisher = Publisher(server, Path(directory))
        ending.callback(publisher.stop)
        fleet = Fleet(peer, server)
        ending.callback(fleet.close)
        fleet.open(1)
        fleet.check(publisher.order("burst", 100))
        publisher.answer()
        timing = fleet.burst(publisher.order("burst", messages))
        published = publisher.answer()
    total = timing.last - published["start"]
    return {
        "messages": messages,
        "rate": messages / published["seconds"],
        "cpu": published["cpu"] / messages,
        "arrived": messages / total,
        "publisher": published["cpu"] / published["seconds"],
        "load": timing.cpu / total,
    }


def main() -> None:
    """Measure and print."""
    options = report.begin(report.parser(__doc__, list(WAYS), runs=5), only=list(WAYS))
    medians = one_by_one(options, lambda peer: measure(peer, options))
    single = medians.get(SINGLE, {}).get(report.OURS, {}).get("rate")
    columns = ["way", "messages", "messages/s", "against publish()", "publisher us/message"]
    columns += ["arrived/s", "publisher", "load gen"]
    rows = [
        [
            f"{name}: {way}",
            count(row["messages"]),
            count(row["rate"]),
            ratio(row["rate"], single or 0),
            micro(row["cpu"]),
            count(row["arrived"]),
            percent(row["publisher"]),
            percent(row["load"]),
        ]
        for way, peers in medians.items()
        for name, row in peers.items()
    ]
    tables = [report.table("messages into the system", columns, rows)]
    report.finish("publish", options, {}, medians, tables)


if __name__ == "__main__":
    main()
