"""Fan-out: deliveries per second in a burst, and the server's CPU per delivery when paced.

Burst: N messages are published as fast as possible; the rate is deliveries over the time from the
first to the last byte that the clients receive. Also given is the rate from the moment at which
publishing begins. Paced: a message is published when all clients have received the one before.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from functools import partial

from benchmarks import report
from benchmarks.bench import Bench, Usage
from benchmarks.machine import cpu_seconds
from benchmarks.peers import Peer
from benchmarks.report import count, micro, percent, ratio
from benchmarks.runs import Figures, Section, in_rounds

EQUAL = "burst, equal subscriptions"
OWN = "burst, a subscription id of its own for each connection"
PACED = "paced, one message at a time"
ROUND_SECONDS = 1.0


class FanOut(Bench):
    """A peer, and the measurements."""

    def __init__(
        self, peer: Peer, options: argparse.Namespace, ending: contextlib.ExitStack
    ) -> None:
        super().__init__(peer, options.connections, ending)
        self.messages = options.messages or (peer.burst // 2 if options.quick else peer.burst)
        self.paced_messages: int = options.paced
        self.own_ids = False

    def burst(self) -> Figures:
        """Publish many messages at once."""
        cpu = cpu_seconds(self.server.pids)
        timing = self.fleet.burst(self.publisher.order("burst", self.messages))
        cpu = cpu_seconds(self.server.pids) - cpu
        published = self.publisher.answer()
        self.check()
        deliveries = self.messages * self.connections
        total = timing.last - published["start"]
        return {
            "messages": self.messages,
            "size": self.size,
            "rate": deliveries / (timing.last - timing.first),
            "rate_from_publish": deliveries / total,
            "cpu": cpu / deliveries,
            "server": cpu / total,
            "load": timing.cpu / total,
            "publisher": published["cpu"] / total,
        }

    def burst_with_own_ids(self) -> Figures | None:
        """Publish many messages at once, to clients that each chose a subscription id."""
        if not self.peer.own_ids:
            return None
        if not self.own_ids:
            self.own_ids = True
            self.open(own_ids=True)
        return self.burst()

    def paced(self) -> Figures:
        """Publish messages, each when the one before has arrived everywhere."""
        end = time.monotonic() + ROUND_SECONDS
        usage = Usage(self)
        done = 0
        while done < self.paced_messages and time.monotonic() < end:
            self.fleet.one(self.publisher.order("one").start)
            self.publisher.answer()
            done += 1
        return {"messages": done, **usage.figures(done * self.connections)}


def burst_table(title: str, peers: dict[str, Figures]) -> str:
    """Return one burst's table."""
    ours = peers.get(report.OURS, {}).get("rate")
    columns = ["peer", "messages", "bytes", "deliveries/s", f"{report.OURS} is", "from publish"]
    columns += ["server us/delivery", "server", "load gen", "publisher"]
    rows = [
        [
            name,
            count(row["messages"]),
            count(row["size"]),
            count(row["rate"]),
            ratio(ours, row["rate"], 1),
            count(row["rate_from_publish"]),
            micro(row["cpu"]),
            *(percent(row[key]) for key in ("server", "load", "publisher")),
        ]
        for name, row in peers.items()
    ]
    return report.table(title, columns, rows)


def paced_table(title: str, peers: dict[str, Figures]) -> str:
    """Return the table of CPU per delivery."""
    ours = peers.get(report.OURS, {}).get("cpu")
    columns = ["peer", "messages", "server us/delivery", f"{report.OURS} uses", "deliveries/s"]
    columns += ["server", "load gen", "publisher"]
    rows = [
        [
            name,
            count(row["messages"]),
            micro(row["cpu"]),
            ratio(ours, row["cpu"]),
            count(row["rate"]),
            *(percent(row[key]) for key in ("server", "load", "publisher")),
        ]
        for name, row in peers.items()
    ]
    return report.table(title, columns, rows)


def main() -> None:
    """Measure and print."""
    names = ["realtime", "realtime-single", "textbook", "gather", "broadcast", "ws", "socketio"]
    parser = report.parser(__doc__, [*names, "nchan"], runs=5)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--messages", type=int, default=0, help="in a burst, for all peers")
    parser.add_argument("--paced", type=int, default=50, help="messages in a round")
    parser.add_argument("--rounds", type=int, default=0, help="of the paced part in a run")
    options = report.begin(parser)
    rounds = options.rounds or (4 if options.quick else 10)
    sections = [
        Section(PACED, FanOut.paced, rounds),
        Section(EQUAL, FanOut.burst),
        Section(OWN, FanOut.burst_with_own_ids),
    ]
    starters = {peer.name: partial(FanOut, peer, options) for peer in options.present}
    medians = in_rounds(options, starters, sections)
    tables = [
        (paced_table if title == PACED else burst_table)(title, medians[title])
        for title in (EQUAL, OWN, PACED)
        if title in medians
    ]
    report.finish("fanout", options, {"connections": options.connections}, medians, tables)


if __name__ == "__main__":
    main()
