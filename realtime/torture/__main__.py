"""The command: rounds with one seed after another, until the time is over or one fails."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from realtime.testing.administrator import end_fork_servers
from realtime.torture.rounds import Outcome, play, shorten
from realtime.torture.site import Site
from realtime.torture.steps import WEIGHTS, Step, draw

# How a run ends.
KEPT, BROKEN = 0, 1
MOST_COMPLAINTS = 20


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m realtime.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first round (%(default)s)")
    parser.add_argument("--minutes", type=float, default=1.0, help="until the last round begins")
    parser.add_argument("--round", type=float, default=20.0, help="seconds of faults in a round")
    parser.add_argument("--only", nargs="+", choices=WEIGHTS, help="only these faults")
    parser.add_argument("--steps", type=argparse.FileType(), help="a file of steps; one round")
    parser.add_argument("--shorten", type=float, default=5.0, help="minutes to find fewer steps")
    parser.add_argument(
        "--settings",
        default=os.environ.get("DJANGO_SETTINGS_MODULE", "streaming_site.settings"),
        help="Django's settings (%(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds; return the exit status."""
    options = read_arguments(arguments)
    try:
        return asyncio.run(torture(options))
    except asyncio.CancelledError:
        return BROKEN
    finally:
        end_fork_servers()


async def torture(options: argparse.Namespace) -> int:
    """Run rounds until the time is over, or one fails."""
    # Else a SIGTERM would leave the round's processes behind.
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    run = partial(play, length=options.round, make_site=_site(options.settings))
    if options.steps:
        steps = [Step.read(line) for line in options.steps if line.strip()]
        return await _report(await run(steps), f"steps of {options.steps.name}")
    weights = dict.fromkeys(options.only, 1) if options.only else WEIGHTS
    deadline = time.monotonic() + 60 * options.minutes
    operations, seed = 0, options.seed
    while True:
        steps = draw(random.Random(seed), options.round, weights)  # noqa: S311 - no secret
        outcome = await run(steps)
        operations += outcome.operations
        status = await _report(outcome, f"seed {seed}")
        if status == BROKEN:
            await _show_fewer(steps, run, 60 * options.shorten)
            return status
        seed += 1
        if time.monotonic() > deadline:
            print(f"{seed - options.seed} rounds, {operations:,} operations, nothing found")
            return status


def _site(settings: str) -> partial[Site]:
    return partial(Site, settings=settings, root=Path.cwd())


async def _report(outcome: Outcome, what: str) -> int:
    print(f"{what}: {outcome}", flush=True)
    for complaint in outcome.complaints[:MOST_COMPLAINTS]:
        print(f"  {complaint}")
    if len(outcome.complaints) > MOST_COMPLAINTS:
        print(f"  and {len(outcome.complaints) - MOST_COMPLAINTS} more")
    return BROKEN if outcome.complaints else KEPT


async def _show_fewer(
    steps: Sequence[Step], run: Callable[[Sequence[Step]], Awaitable[Outcome]], seconds: float
) -> None:
    """Print as few steps as fail too."""

    async def fails(attempt: Sequence[Step]) -> bool:
        outcome = await run(attempt)
        print(f"  with {len(attempt)} steps: {len(outcome.complaints)} complaints", flush=True)
        return bool(outcome.complaints)

    left = await shorten(steps, fails, seconds)
    print(f"these {len(left)} of {len(steps)} steps fail too; play them with --steps FILE:")
    for step in left:
        print(step)


if __name__ == "__main__":
    sys.exit(main())
