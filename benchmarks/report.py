"""What the benchmarks have in common at their ends: options, tables, JSON."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.peers import HERE
from benchmarks.peers.catalogue import PEERS

OURS = "realtime"


def parser(description: str | None, peers: Sequence[str], runs: int) -> argparse.ArgumentParser:
    """Return the options that every benchmark takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--peers", default=",".join(peers), help=f"of {', '.join(PEERS)}")
    options.add_argument("--runs", type=int, default=0, help=f"runs of each peer (default {runs})")
    options.add_argument("--quick", action="store_true", help="fewer runs, smaller loads")
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options.add_argument("--install", action="store_true", help="first install the Node peers")
    options.set_defaults(default_runs=runs)
    return options


def begin(
    options: argparse.ArgumentParser, only: Sequence[str] = tuple(PEERS)
) -> argparse.Namespace:
    """Parse the options and settle this process; *only* these peers can be measured."""
    chosen = options.parse_args()
    chosen.runs = chosen.runs or (1 if chosen.quick else chosen.default_runs)
    if chosen.install:
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=HERE, stdout=sys.stderr, check=True)
    unknown = [name for name in chosen.peers.split(",") if name not in PEERS]
    if unknown:
        options.error(f"no such peer: {', '.join(unknown)}")
    chosen.missing = {}
    chosen.present = []
    for name in chosen.peers.split(","):
        if name not in only:
            chosen.missing[name] = "this benchmark does not apply to it"
        elif reason := PEERS[name].missing():
            chosen.missing[name] = f"not installed: {reason}"
        else:
            chosen.present.append(PEERS[name])
    # What others do on the machine shows here; figures are good when it is near 0.
    chosen.load = round(os.getloadavg()[0], 1)
    machine.prepare()
    gc.disable()
    return chosen


def ratio(ours: float | None, theirs: float, digits: int = 2) -> str:
    """Return how many times *theirs* goes into *ours*."""
    return "-" if ours is None or not theirs else f"{ours / theirs:.{digits}f}x"


def percent(share: float) -> str:
    """Return a share of one core."""
    return f"{share * 100:.0f} %"


def count(number: float) -> str:
    """Return a number with thousands marked."""
    return f"{number:,.0f}"


def micro(seconds: float) -> str:
    """Return a duration in microseconds."""
    return f"{seconds * 1e6:,.2f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain text table: the first column to the left, the others to the right."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    text = [title]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(2, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def finish(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    medians: dict[str, Any],
    tables: Sequence[str],
) -> None:
    """Print the tables, or everything as JSON."""
    facts = machine.describe() | {"load before": options.load}
    if options.json:
        result = {
            "benchmark": name,
            "machine": facts,
            "settings": {"runs": options.runs, "quick": options.quick} | settings,
            "medians": medians,
            "missing": options.missing,
        }
        print(json.dumps(result, indent=2))
        return
    settings = {"runs": options.runs} | settings
    for described in (facts, settings):
        print(", ".join(f"{key}: {value}" for key, value in described.items()))
    for table_text in tables:
        print(f"\n{table_text}")
    if options.missing:
        print("\nnot measured:")
        for peer, reason in options.missing.items():
            print(f"  {peer}: {reason}")
