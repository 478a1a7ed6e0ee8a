"""Scale: what workers, shards and processes cost, and what they bring.

*Workers*: deliveries per second and the server's CPU per delivery with ``serve --workers``, on one
core and on all. *Shards*: what Valkeys take in when that is all they do, and deliveries of types
that are on different ones. *Processes*: what a message costs a Valkey, and its publisher, when so
many processes are members of the group, and what they cost without any message; processes without
clients, see ``benchmarks.members``.

On two cores, of which load generator and publisher need one, two workers or two Valkeys cannot be
twice as fast as one. What can be seen is whether a delivery or a message takes more CPU; if not,
further cores bring as much as the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import django
import redis

from benchmarks import report
from benchmarks.appends import Appends, send_all
from benchmarks.fanout import FanOut
from benchmarks.machine import SERVER_CORE, cpu_seconds
from benchmarks.members import Members, live
from benchmarks.peers import Server, launch_shard
from benchmarks.peers.catalogue import HOST, Realtime
from benchmarks.publisher import Publisher
from benchmarks.report import count, micro, percent, ratio
from benchmarks.runs import Figures, Medians, Section, in_rounds, median, say
from benchmarks.shards import Deliveries, Intake

BURST, PACED = "workers, burst", "workers, paced"
SINGLE, BATCHED = "shards, one by one", "shards, in batches"
DELIVERY = "shards, delivery"
PROCESSES = "processes"
CONNECTIONS = 500
BATCH = 100
# Messages a second, and so how many of them.
RATE = 500
WARM = 100
# Messages that come as fast as Valkey takes them in.
FLOW = 4000


def workers(options: argparse.Namespace) -> Medians:
    """Measure one and two workers, on one core and on all."""
    starters = {}
    for core, where in ((SERVER_CORE, "one core"), (None, "all cores")):
        for number in (1, 2):
            name = f"{number} worker{'s' * (number > 1)}, {where}"
            peer = Realtime(name, "", 2000, workers=number, core=core)
            starters[name] = partial(FanOut, peer, options)
    sections = [Section(PACED, FanOut.paced, options.rounds), Section(BURST, FanOut.burst, 4)]
    return in_rounds(options, starters, sections)


def shards(options: argparse.Namespace) -> Medians:
    """Measure one and two shards: alone, and behind a server."""
    calls = 20_000 if options.quick else 40_000
    alone = {_shards(number): partial(Intake, number) for number in (1, 2)}
    behind = {
        _shards(number): partial(Deliveries, number, options.connections) for number in (1, 2)
    }
    intake = [
        Section[Intake](SINGLE, lambda subject: subject.take(calls, 1), 2),
        Section[Intake](BATCHED, lambda subject: subject.take(calls // 10, BATCH), 2),
    ]
    delivery = [Section(DELIVERY, Deliveries.paced, options.rounds)]
    return in_rounds(options, alone, intake) | in_rounds(options, behind, delivery)


def _shards(number: int) -> str:
    return f"{number} shard{'s' * (number > 1)}"


class Layer:
    """A Valkey and a publisher; processes come and go."""

    def __init__(self, directory: Path, ending: contextlib.ExitStack) -> None:
        self._process, self._port = launch_shard(ending, directory / "layer")
        environment = {
            "DJANGO_SETTINGS_MODULE": "streaming_site.settings",
            "STREAMING_DATA_DIR": str(directory),
            "REDIS_URL": f"redis://{HOST}:{self._port}",
        }
        pid = self._process.child.pid
        server = Server((HOST, self._port), pid, [pid], ["realtime", "1"], environment)
        self._publisher = Publisher(server, directory)
        ending.callback(self._publisher.stop)
        # This process is the others; servers that it starts have settings of their own.
        os.environ |= environment
        django.setup()
        for name in environment:
            del os.environ[name]

    def measure(self, processes: int, options: argparse.Namespace) -> Figures:
        """Measure so many processes."""
        return self._publish(processes, options.messages) | self._rest(processes, options.rest)

    def _cpu(self) -> float:
        return cpu_seconds([self._process.child.pid])

    def _publish(self, processes: int, messages: int) -> Figures:
        """Publish to so many members: so many a second, then as many as Valkey takes in."""
        from realtime.cluster.layer import group_address

        members = Members(self._port, group_address("events")[1], processes)
        with contextlib.closing(members), ThreadPoolExecutor(1) as thread:
            for number in (WARM, messages):
                before = self._cpu()
                self._publisher.order("rate", number, RATE)
                members.take(number)
                published = self._publisher.answer()
                cpu = self._cpu() - before
            calls = Appends(self._port, "events", FLOW, 1)
            before = self._cpu()
            sending = thread.submit(send_all, [calls])
            members.take(FLOW)
            sending.result()
            flow = self._cpu() - before
        times = {key: published[key] for key in ("p50", "p99")}
        return {"cpu": cpu / messages, "flow": flow / FLOW} | times

    def _rest(self, processes: int, seconds: float) -> Figures:
        """Do only what processes do without clients and messages."""
        with redis.Redis(port=self._port) as client:
            client.flushall()  # those that were here before
        before = self._cpu()
        asyncio.run(live(processes, seconds))
        return {"rest": (self._cpu() - before) / seconds}


def processes(layer: Layer, options: argparse.Namespace) -> Medians:
    """Measure growing numbers of processes, ``options.runs`` times."""
    found: dict[str, list[Figures]] = {str(number): [] for number in options.processes}
    for run in range(options.runs):
        for number in options.processes:
            say(f"run {run + 1} of {options.runs}: {number} processes")
            found[str(number)].append(layer.measure(number, options))
    return {PROCESSES: {name: median(runs) for name, runs in found.items()}}


def comparison(title: str, unit: str, rows: dict[str, Figures], busy: str) -> str:
    """Return a table in which each row is compared with the first."""
    first = next(iter(rows.values()))
    columns = ["", f"{unit}/s", "of the first", "us of CPU each", "of the first", busy]
    cells = [
        [
            name,
            count(row["rate"]),
            ratio(row["rate"], first["rate"]),
            micro(row["cpu"]),
            ratio(row["cpu"], first["cpu"]),
            percent(row["server"]),
        ]
        for name, row in rows.items()
    ]
    return report.table(title, columns, cells)


def growth(rows: dict[str, Figures]) -> str:
    """Return the table of processes."""
    first_name, first = next(iter(rows.items()))
    columns = ["processes", f"Valkey us/message at {RATE}/s", "of the first", "each further"]
    columns += ["in a flow", "of the first", "each further", "publish() p50, ms", "p99, ms"]
    columns += ["Valkey at rest"]
    cells = []
    for name, row in rows.items():
        further = int(name) - int(first_name)
        cell = [name]
        for key in ("cpu", "flow"):
            each = micro((row[key] - first[key]) / further) if further else "-"
            cell += [micro(row[key]), ratio(row[key], first[key]), each]
        cell += [f"{row[key] * 1000:.2f}" for key in ("p50", "p99")]
        cells.append([*cell, f"{row['rest'] * 100:.1f} %"])
    return report.table("processes: what a message costs, and what none costs", columns, cells)


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=3)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--processes", default="", help="1,2,5,10,25,50; with --quick 1,10,50")
    options = report.begin(parser, only=(report.OURS,))
    numbers = options.processes or ("1,10,50" if options.quick else "1,2,5,10,25,50")
    options.processes = [int(number) for number in numbers.split(",")]
    # What FanOut wants to know: messages of a burst are as many as the peer says.
    options.messages, options.paced, options.rounds = 0, 50, 2 if options.quick else 4
    with contextlib.ExitStack() as ending:
        directory = ending.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        layer = Layer(Path(directory), ending)
        medians = workers(options) | shards(options)
        options.messages, options.rest = (400, 2.0) if options.quick else (1000, 4.0)
        medians |= processes(layer, options)
    tables = [
        comparison(title, unit, medians[title], busy)
        for title, unit, busy in (
            (BURST, "deliveries", "server"),
            (PACED, "deliveries", "server"),
            (SINGLE, "messages", "Valkeys"),
            (BATCHED, "messages", "Valkeys"),
            (DELIVERY, "deliveries", "server"),
        )
        if medians.get(title)
    ]
    tables.append(growth(medians[PROCESSES]))
    settings = {"connections": options.connections, "batch": BATCH, "messages/s": RATE}
    report.finish("scale", options, settings, json.loads(json.dumps(medians)), tables)


if __name__ == "__main__":
    main()
