"""A process that publishes 1, 2, 3 … to ``events``, in parts, until it is told to stop.

A part that is not confirmed it publishes again with the same key before it goes on; so does the
next process that is told to begin there. Each confirmed part is a line: its first number, how many
messages it has, epoch and offset. The process ends when its standard input does.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time

RETRY_INTERVAL = 0.05
MOST_TOGETHER = 50
# Seconds since 1970 of the first message's own time, and seconds from each to the next.
START, STEP = 1_700_000_000, 0.05


def payload(name: str, number: int) -> dict[str, object]:
    """Return the message of a number, with what clients and rules ask for."""
    own_time = START + number * STEP
    return {
        "publisher": name,
        "n": number,
        "odd": number % 2 == 1,
        "rare": number % 100 == 0,
        "at": own_time,
    }


def part(name: str, first: int) -> int:
    """Return how many messages are published together from this one on."""
    chance = random.Random(f"{name} {first}")  # noqa: S311 - no secret
    return chance.choice((1, chance.randint(1, MOST_TOGETHER)))


def main() -> None:
    """Publish until told to stop."""
    options = argparse.ArgumentParser()
    options.add_argument("name")
    options.add_argument("--first", type=int, default=1)
    options.add_argument("--interval", type=float, default=0.02)
    arguments = options.parse_args()

    import django

    django.setup()
    publish_until_stopped(arguments.name, arguments.first, arguments.interval)


def publish_until_stopped(name: str, first: int, interval: float) -> None:
    """Publish; needs Django."""
    from realtime import PublishError, publish_many

    stopped = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while not stopped.wait(interval):
        count = part(name, first)
        payloads = [payload(name, number) for number in range(first, first + count)]
        while True:
            try:
                positions = publish_many("events", payloads, idempotency_key=f"{name} {first}")
                break
            except PublishError:
                if os.getppid() == 1:
                    sys.exit()  # nobody is there any more to be told
                time.sleep(RETRY_INTERVAL)
        print(first, count, *positions[0], flush=True)
        first += count


if __name__ == "__main__":
    main()
