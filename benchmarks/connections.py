"""Connections: handshakes per second, and the memory of one that is idle.

A handshake is the WebSocket upgrade, authentication and one subscription, each waiting for its
answer, 32 connections at a time. Memory is the growth of the server process's resident memory since
its first 50 connections, divided by the number of those that came after.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import report
from benchmarks.load import Fleet
from benchmarks.machine import cpu_seconds, resident_bytes
from benchmarks.peers import Peer
from benchmarks.report import count, micro, percent, ratio
from benchmarks.runs import Figures, one_by_one

WARM = 50
SETTLE = 1.0


def measure(peer: Peer, options: argparse.Namespace) -> dict[str, Figures]:
    """Open connections up to each of the sizes."""
    sections = {}
    with peer.running() as server:
        fleet = Fleet(peer, server)
        try:
            fleet.open(WARM)
            time.sleep(SETTLE)
            before = resident_bytes(server.main)
            for size in options.sizes:
                opening = size + WARM - len(fleet)
                cpu, load = cpu_seconds(server.pids), time.process_time()
                seconds = fleet.open(opening)
                cpu, load = cpu_seconds(server.pids) - cpu, time.process_time() - load
                time.sleep(SETTLE)
                sections[f"{size:,} connections"] = {
                    "rate": opening / seconds,
                    "cpu": cpu / opening,
                    "memory": (resident_bytes(server.main) - before) / size,
                    "server": cpu / seconds,
                    "load": load / seconds,
                }
        finally:
            fleet.close()
    return sections


def main() -> None:
    """Measure and print."""
    names = ["realtime", "textbook", "bare", "broadcast", "ws", "socketio", "nchan"]
    parser = report.parser(__doc__, names, runs=3)
    parser.add_argument("--sizes", default="", help="1000,10000; with --quick 500,2000")
    options = report.begin(parser)
    sizes = options.sizes or ("500,2000" if options.quick else "1000,10000")
    options.sizes = [int(size) for size in sizes.split(",")]
    medians = one_by_one(options, lambda peer: measure(peer, options))
    tables = []
    for title, peers in medians.items():
        ours = peers.get(report.OURS, {})
        columns = ["peer", "handshakes/s", f"{report.OURS} is", "server us/handshake"]
        columns += ["bytes/connection", f"{report.OURS} uses", "server", "load gen"]
        rows = [
            [
                name,
                count(row["rate"]),
                ratio(ours.get("rate"), row["rate"]),
                micro(row["cpu"]),
                count(row["memory"]),
                ratio(ours.get("memory"), row["memory"]),
                percent(row["server"]),
                percent(row["load"]),
            ]
            for name, row in peers.items()
        ]
        tables.append(report.table(title, columns, rows))
    report.finish("connections", options, {"sizes": options.sizes}, medians, tables)


if __name__ == "__main__":
    main()
