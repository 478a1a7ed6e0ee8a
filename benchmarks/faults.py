"""Faults: what clients have of a numbered stream after everything that can break has broken.

The scenarios are those of ``tests/system/faults``: a publisher that tries again until a message is
confirmed, three clients that resume by the rules, and a fault, again and again. Lost is what was
confirmed and matched, and did not come to a client that was not told so; after FLUSHALL clients
are told. The gap is the longest time between two messages of the client that gets all of them.
Ends with status 1 if anything was lost or repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, report
from tests.system.faults.scenarios import SCENARIOS
from tests.system.faults.scene import Outcome, play


def main() -> None:
    """Break things and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="scenarios whose title contains this")
    parser.add_argument("--rounds", type=int, default=20, help="how often each fault is injected")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    outcomes = []
    for scenario in SCENARIOS:
        if options.only and not any(part in scenario.title for part in options.only):
            continue
        print(f"{scenario.title}…", file=sys.stderr)
        with tempfile.TemporaryDirectory() as directory:
            played = play(scenario, Path(directory), options.rounds, options.seed)
            outcomes.append(asyncio.run(played))
    if options.json:
        facts = {"benchmark": "faults", "machine": machine.describe(), "rounds": options.rounds}
        print(json.dumps(facts | {"outcomes": [asdict(outcome) for outcome in outcomes]}, indent=2))
    else:
        print(table(outcomes))
    for outcome in outcomes:
        for complaint in outcome.complaints:
            print(f"{outcome.title}: {complaint}", file=sys.stderr)
    sys.exit(any(outcome.lost or outcome.repeated or outcome.complaints for outcome in outcomes))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each scenario."""
    columns = ["fault", "injected", "published", "refused", "reconnects", "delivered"]
    columns += ["lost", "repeated", "told", "longest gap, s"]
    rows = [
        [
            outcome.title,
            *(
                report.count(number)
                for number in (
                    outcome.faults,
                    outcome.published,
                    outcome.refused,
                    outcome.reconnects,
                    outcome.delivered,
                    outcome.lost,
                    outcome.repeated,
                    outcome.told,
                )
            ),
            f"{outcome.longest_gap:.1f}",
        ]
        for outcome in outcomes
    ]
    return report.table("Three clients, each fault again and again", columns, rows)


if __name__ == "__main__":
    main()
