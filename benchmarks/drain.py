"""Drain: 5,000 clients whose server ends, and the queue they make at the next one.

A server with 5,000 subscribed clients gets SIGTERM while events are published twice a second. The
clients obey its ``retry_after``, authenticate again and resume. They go to another server, or to a
new process on the same port. For comparison: clients that come back as soon as they are told, and a
server that is killed. Both servers share a core. Only this project's server is measured.

The handshake is from connecting to the server's 101; "subscribed" from connecting to the answer to
the subscription that resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import report
from benchmarks.crowd import Crowd
from benchmarks.hostile import percentile_of
from benchmarks.machine import SERVER_CORE, Process, free_port
from benchmarks.peers import ROOT, Peer, Server
from benchmarks.publisher import Publisher
from benchmarks.runs import Figures, one_by_one

RATE = 2
# Seconds in which all are back, for sure, so that the last event is live for everyone.
ENOUGH = 25


@dataclass
class Case:
    """A way to go."""

    title: str
    number: signal.Signals = signal.SIGTERM
    patient: bool = True
    same_port: bool = False


CASES = (
    Case("another server"),
    Case("a new process on the same port", same_port=True),
    Case("another server, at once", patient=False),
    Case("another server, after SIGKILL", signal.SIGKILL, patient=False),
)


def serve(server: Server, directory: Path, ending: contextlib.ExitStack, port: int) -> Process:
    """Start another server on the data directory and the Valkey of the first."""
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "--host", server.address[0]]
    environment = server.environment | {"STREAMING_WEBSOCKET__DRAIN_TIMEOUT": "10"}
    log = directory / f"serve-{time.monotonic_ns()}.log"
    process = Process([*command, "--port", str(port)], SERVER_CORE, log, environment)
    ending.callback(process.stop)
    return process


def measure(peer: Peer, options: argparse.Namespace) -> dict[str, Figures]:
    """Measure every way to go."""
    sections = {}
    with peer.running() as server, tempfile.TemporaryDirectory() as directory:
        for case in CASES:
            with contextlib.ExitStack() as ending:
                sections[case.title] = move(
                    peer, server, case, options.clients, Path(directory), ending
                )
    return sections


def move(
    peer: Peer,
    server: Server,
    case: Case,
    clients: int,
    directory: Path,
    ending: contextlib.ExitStack,
) -> Figures:
    """Have a server end, and its clients go to another."""
    port = free_port()
    old = serve(server, directory, ending, port)
    address = server.address[0], port
    old.wait_for(address)
    crowd = Crowd(peer, replace(server, address=address), clients)
    ending.callback(crowd.close)
    crowd.patient = case.patient
    publisher = Publisher(server, directory)
    ending.callback(publisher.stop)
    events = publisher.order("rate", RATE * ENOUGH, RATE)
    crowd.begin(events.start)
    crowd.run(address, events.start + 1)  # so that all have a position
    began = time.monotonic()
    old.child.send_signal(case.number)
    if case.same_port:
        serve(server, directory, ending, port)
    else:
        address = server.address
    crowd.run(address, events.stop)
    publisher.answer()
    if old.child.wait() not in (0, -case.number):
        raise RuntimeError(f"the server did not end well:\n{old.tail()}")
    return figures(crowd, began)


def figures(crowd: Crowd, began: float) -> Figures:
    """Return the figures of all clients; times in seconds."""
    absences = crowd.absences()
    assert len(absences) == len(crowd.clients), "a client has not gone over"
    handshakes = sorted(absence.upgraded - absence.connecting for absence in absences)
    subscribing = sorted(absence.subscribed - absence.connecting for absence in absences)
    return {
        "told": max(absence.told for absence in absences) - began,
        "back": max(absence.subscribed for absence in absences) - began,
        "p50": percentile_of(handshakes, 0.5),
        "p99": percentile_of(handshakes, 0.99),
        "longest": handshakes[-1],
        "subscribed p99": percentile_of(subscribing, 0.99),
        "subscribed longest": subscribing[-1],
        "refused": float(sum(absence.refused for absence in absences)),
        "lost": float(crowd.lost),
        "repeated": float(crowd.repeated),
    }


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=3)
    parser.add_argument("--clients", type=int, default=0, help="default 5000; with --quick 1000")
    options = report.begin(parser, only=(report.OURS,))
    options.clients = options.clients or (1000 if options.quick else 5000)
    medians = one_by_one(options, lambda peer: measure(peer, options))
    columns = [
        "where to",
        "told within, s",
        "back within, s",
        "handshake p50, ms",
        "p99",
        "longest",
    ]
    columns += ["subscribed p99, ms", "longest", "refused", "lost", "repeated"]
    rows = []
    for title, peers in medians.items():
        row = peers[report.OURS]
        milliseconds = ("p50", "p99", "longest", "subscribed p99", "subscribed longest")
        rows.append(
            [
                title,
                *(f"{row[name]:.1f}" for name in ("told", "back")),
                *(f"{row[name] * 1000:,.1f}" for name in milliseconds),
                *(report.count(row[name]) for name in ("refused", "lost", "repeated")),
            ]
        )
    table = report.table(f"{options.clients:,} clients go over", columns, rows)
    settings = {"clients": options.clients, "rate": RATE}
    report.finish("drain", options, settings, json.loads(json.dumps(medians)), [table])


if __name__ == "__main__":
    main()
