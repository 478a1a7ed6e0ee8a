"""A process that publishes 1, 2, 3 … to ``events`` until its standard input ends.

Whatever is not confirmed it publishes again, with the same key, before it goes on. Every
confirmed message is a line of standard output, ``number epoch offset``; every refusal is
``refused`` and the seconds that it took.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Sequence

# Seconds between messages and between attempts.
INTERVAL = 0.01
RETRY_INTERVAL = 0.05
# Every so many messages, some are published together.
PERIOD = 20
TOGETHER = 5


def main() -> None:
    """Publish until told to stop."""
    options = argparse.ArgumentParser()
    options.add_argument("--padding", type=int, default=0, help="bytes in each message")
    padding = "x" * options.parse_args().padding

    import django

    django.setup()
    from realtime import PublishError, publish, publish_many
    from realtime.protocol import Position

    def publish_all(numbers: Sequence[int], key: str) -> list[Position]:
        payloads = [payload(number, padding) for number in numbers]
        if len(payloads) > 1:
            return publish_many("events", payloads, idempotency_key=key)
        position = publish("events", payloads[0], idempotency_key=key)
        assert position is not None
        return [position]

    def confirm(numbers: Sequence[int]) -> None:
        while True:
            started = time.monotonic()
            try:
                positions = publish_all(numbers, f"number {numbers[0]}")
                break
            except PublishError:
                print("refused", round(time.monotonic() - started, 3), flush=True)
                time.sleep(RETRY_INTERVAL)
        for number, (epoch, offset) in zip(numbers, positions, strict=True):
            print(number, epoch, offset, flush=True)

    stopped = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    numbers = itertools.count(1)
    for turn in itertools.count(1):
        confirm([next(numbers) for _ in range(1 if turn % PERIOD else TOGETHER)])
        if stopped.wait(INTERVAL):
            break


def payload(number: int, padding: str = "") -> dict[str, object]:
    """Return the message of a number, with what clients filter by."""
    return {"n": number, "odd": number % 2 == 1, "hundredth": number % 100 == 0, "pad": padding}


if __name__ == "__main__":
    main()
