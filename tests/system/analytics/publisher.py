"""A process that publishes a file's lines to ``events``, so many a second, each once.

Whatever is not confirmed it publishes again, with the same key; so does another such process that
is given the same file. Standard output has how many lines are confirmed, a line each time.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import msgspec

TOGETHER = 500
RETRY_INTERVAL = 0.1


def main() -> None:
    """Publish what is left of the file."""
    options = argparse.ArgumentParser()
    options.add_argument("file", type=Path)
    options.add_argument("--from-line", type=int, default=0)
    options.add_argument("--rate", type=float, required=True)
    arguments = options.parse_args()

    import django

    django.setup()
    from realtime import PublishError, publish_many

    done = arguments.from_line
    with arguments.file.open("rb") as file:
        lines = islice(file, done, None)
        while batch := [msgspec.json.decode(line) for line in islice(lines, TOGETHER)]:
            while True:
                try:
                    publish_many("events", batch, idempotency_key=f"line {done}")
                    break
                except PublishError:
                    time.sleep(RETRY_INTERVAL)
            done += len(batch)
            print(done, flush=True)
            time.sleep(len(batch) / arguments.rate)


if __name__ == "__main__":
    main()
