"""Aggregations: how many events a second 20 rules take in, by one process on one core.

The events are in the log before it starts. The time is from when it begins to read until all rules
have read everything, all is saved and all results are published; Valkey has the other core. Events
have times of their own, 2,000 a second, up to two seconds out of order. The rules are in
``RULES``; what one of them counted is compared with what was published.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import report
from benchmarks.machine import LOAD_CORE, SERVER_CORE, Process, cpu_seconds
from benchmarks.peers import ROOT, valkey_binary
from benchmarks.report import count, micro, percent

# Events a second, by their own times; and how many seconds they are out of order.
PACE = 2000
LATENESS = 2
BATCH = 100
PAGES = [f"/product/{number}" for number in range(200)]
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def figure(function: str, path: str = "") -> dict[str, str]:
    """Return a function of a rule, named after what it is."""
    return {"name": f"{function}_{path.rpartition('.')[2]}".strip("_"), "function": function} | (
        {"path": path} if path else {}
    )


AMOUNT, DURATION, USER = "payload.amount", "payload.duration_ms", "user_id"
COUNT, RATE = figure("count"), figure("rate")
PURCHASE = {"event_type": "purchase"}
PERCENTILES = [figure(name, DURATION) for name in ("p50", "p95", "p99")]

# Group by, filters, size, slide, functions.
RULES: list[tuple[list[str], dict[str, Any], int, int, list[dict[str, str]]]] = [
    ([], {}, 10, 10, [COUNT, RATE]),
    ([], {}, 60, 10, [COUNT, RATE, figure("distinct", USER)]),
    (["event_type"], {}, 10, 10, [COUNT, RATE]),
    (["event_type"], {}, 60, 10, [COUNT, *PERCENTILES]),
    (["payload.country"], {}, 60, 60, [COUNT, figure("distinct", USER)]),
    (["payload.country", "event_type"], {}, 10, 10, [COUNT]),
    (["payload.page"], {}, 60, 60, [COUNT, figure("avg", DURATION), figure("p95", DURATION)]),
    (["payload.page"], {"event_type": "view"}, 10, 10, [COUNT]),
    (["payload.country"], PURCHASE, 60, 10, [figure("sum", AMOUNT), figure("avg", AMOUNT)]),
    (["payload.currency"], PURCHASE, 60, 60, [figure("sum", AMOUNT), figure("max", AMOUNT)]),
    ([], PURCHASE, 10, 10, [COUNT, figure("sum", AMOUNT), figure("p95", AMOUNT)]),
    ([USER], {}, 60, 60, [COUNT]),
    ([USER], PURCHASE, 60, 60, [COUNT, figure("sum", AMOUNT)]),
    (["payload.country"], {"event_type": "login"}, 60, 60, [COUNT, figure("distinct", USER)]),
    ([], {"event_type": ["login", "signup"]}, 60, 10, [COUNT, RATE]),
    (["event_type"], {}, 60, 60, [figure(name, DURATION) for name in ("min", "max", "avg")]),
    (["payload.device"], {}, 10, 10, [COUNT, *PERCENTILES]),
    (["payload.device", "payload.country"], {}, 60, 60, [COUNT, figure("avg", DURATION)]),
    ([], {"payload.country": ["DE", "FR"]}, 60, 10, [COUNT, figure("distinct", "payload.page")]),
    (["payload.device"], {"event_type": "view"}, 60, 10, [figure("p99", DURATION), RATE]),
]
COUNTED = "rule-0"


def make_rules() -> Iterator[dict[str, Any]]:
    """Yield the fields of the rules."""
    for number, (group_by, filters, size, slide, functions) in enumerate(RULES):
        yield {
            "name": f"rule-{number}",
            "group_by": group_by,
            "filters": filters,
            "size": size,
            "slide": slide,
            "allowed_lateness": LATENESS,
            "time_path": "timestamp",
            "functions": functions,
        }


def make_event(number: int, chance: random.Random) -> dict[str, Any]:
    """Return an event of about 240 bytes."""
    at = START + number / PACE - chance.random() * LATENESS
    return {
        "event_id": f"evt_{number:010d}",
        "event_type": chance.choice(("view", "view", "click", "purchase", "login", "signup")),
        "user_id": f"user_{chance.randrange(1000):06d}",
        "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "payload": {
            "page": chance.choice(PAGES),
            "country": chance.choice(("DE", "FR", "US", "GB", "IN", "BR", "JP", "NG")),
            "device": chance.choice(("phone", "tablet", "desktop")),
            "amount": chance.randrange(100, 20_000) / 100,
            "currency": chance.choice(("EUR", "USD", "GBP")),
            "duration_ms": int(chance.lognormvariate(5, 1)),
        },
    }


def run(events: int, directory: Path, ending: contextlib.ExitStack) -> dict[str, float]:
    """Publish events, then have them worked out."""
    valkey = start_valkey(directory, ending)
    prepare(events)
    command = [sys.executable, str(ROOT / "manage.py"), "run_aggregations"]
    worker = Process(command, SERVER_CORE, directory / "aggregations.log")
    ending.callback(worker.stop)
    began, cpu, read = wait_until_read(worker, 1)
    before = cpu_seconds([valkey.child.pid])
    ended, cpu_then, _ = wait_until_read(worker, events)
    seconds = ended - began
    valkey_cpu = cpu_seconds([valkey.child.pid]) - before
    results = check(events)
    worker.stop(patience=60)
    if worker.child.returncode:
        raise RuntimeError(worker.tail())
    return {
        "rate": (events - read) / seconds,
        "cpu": (cpu_then - cpu) / (events - read),
        "worker": (cpu_then - cpu) / seconds,
        "valkey": valkey_cpu / seconds,
        "results": results,
    }


def start_valkey(directory: Path, ending: contextlib.ExitStack) -> Process:
    """Start Valkey on the other core, and let Django know of it and of a log that holds all."""
    path = directory / "valkey.sock"
    command = [valkey_binary(), "--port", "0", "--unixsocket", str(path), "--save", ""]
    valkey = Process(command, LOAD_CORE, directory / "valkey.log")
    ending.callback(valkey.stop)
    valkey.wait_for(path)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "streaming_site.settings",
        "STREAMING_DATA_DIR": str(directory),
        "STREAMING_WEBSOCKET__HISTORY_SIZE": "10000000",
        "REDIS_URL": f"unix://{path}",
    }
    return valkey


def prepare(events: int) -> None:
    """Make the database and the rules, and fill the log."""
    import django

    django.setup()
    from django.core.management import call_command

    from realtime import publish_many
    from realtime.models import AggregationRule

    call_command("migrate", verbosity=0)
    for fields in make_rules():
        row = AggregationRule(**fields)
        row.full_clean()
        row.save()
    chance = random.Random(1)
    for first in range(0, events, BATCH):
        publish_many("events", [make_event(n, chance) for n in range(first, first + BATCH)])


def wait_until_read(worker: Process, events: int) -> tuple[float, float, int]:
    """Wait until all rules have saved that they read so many.

    Returns the time, the CPU seconds that it took, and how many they have read.
    """
    from realtime.analytics.aggregation.definitions import load_processors
    from realtime.analytics.processing.state import read_standing

    processors = load_processors()
    while True:
        # The last one first, so that asking takes little from Valkey's core.
        read = events
        for one in reversed(processors):
            position = read_standing(one, "progress").position
            read = 0 if position is None else min(read, position.offset)
            if read < events:
                break
        if read >= events:
            return time.monotonic(), cpu_seconds([worker.child.pid]), read
        if worker.child.poll() is not None:
            raise RuntimeError(worker.tail())
        time.sleep(0.05)


def check(events: int) -> int:
    """Compare what was counted with what was published; return how many results there are."""
    import asyncio

    from realtime.cluster.clients import close_async_clients
    from realtime.log import get_log

    async def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while (chunk := await get_log().read("aggregations", len(found))).entries:
            found += [json.loads(entry.body) for entry in chunk.entries]
        await close_async_clients()
        return found

    results = asyncio.run(read())
    counted = {
        one["window"]["start"]: one["values"]["count"] for one in results if one["rule"] == COUNTED
    }
    chance = random.Random(1)
    expected: dict[str, int] = {}
    for number in range(events):
        at = datetime.fromisoformat(make_event(number, chance)["timestamp"])
        start = datetime.fromtimestamp(at.timestamp() // 10 * 10, UTC).isoformat(
            timespec="milliseconds"
        )
        name = f"{start.removesuffix('+00:00')}Z"
        expected[name] = expected.get(name, 0) + 1
    if not counted or any(expected[name] != number for name, number in counted.items()):
        raise RuntimeError(f"counted {counted}, published {expected}")
    return len(results)


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=1)
    parser.add_argument("--events", type=int, default=0, help="300,000; with --quick 100,000")
    options = report.begin(parser, only=[report.OURS])
    events = options.events or (100_000 if options.quick else 300_000)
    row = measure(events)
    columns = ["rules", "events", "events/s", "CPU us/event", "worker", "Valkey", "results"]
    cells = [
        str(len(RULES)),
        count(events),
        count(row["rate"]),
        micro(row["cpu"]),
        percent(row["worker"]),
        percent(row["valkey"]),
        count(row["results"]),
    ]
    table = report.table("events taken in by one process", columns, [cells])
    report.finish("aggregations", options, {"events": events}, {report.OURS: row}, [table])


def measure(events: int) -> dict[str, float]:
    """Measure in a directory of its own."""
    with TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as ending:
        return run(events, Path(directory), ending)


if __name__ == "__main__":
    main()
