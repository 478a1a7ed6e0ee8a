"""A process that publishes numbered messages of several types until its standard input ends.

Of each type it publishes ``--together`` at a time, every ``--interval`` seconds. Whatever is not
confirmed it publishes again, with the same key, before it goes on with that type; others go on.
Each confirmation is a line of standard output, ``type number``, and each refusal ``type refused``.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import threading
import time

RETRY_INTERVAL = 0.05


def main() -> None:
    """Publish until told to stop."""
    options = argparse.ArgumentParser()
    options.add_argument("types", nargs="+")
    options.add_argument("--interval", type=float, required=True)
    options.add_argument("--together", type=int, required=True)
    options.add_argument("--slices", type=int, required=True)
    given = options.parse_args()

    import django

    django.setup()
    from realtime import PublishError, publish_many

    stopped = threading.Event()
    # The log outlives this process: another one's numbers are others.
    run = secrets.token_hex(4)

    def say(line: str) -> None:
        # In one write: print() makes two, between which another thread may have its own.
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def publish_all(kind: str) -> None:
        due = time.monotonic()
        for start in itertools.count(0, given.together):
            numbers = range(start, start + given.together)
            payloads = [{"n": n, "slice": n % given.slices} for n in numbers]
            while True:
                try:
                    publish_many(kind, payloads, idempotency_key=f"{run}:{start}")
                    break
                except PublishError:
                    say(f"{kind} refused")
                    stopped.wait(RETRY_INTERVAL)
            say(f"{kind} {numbers[-1]}")
            # After an outage it does not make up for what it has missed.
            due = max(due + given.interval, time.monotonic())
            if stopped.wait(due - time.monotonic()):
                return

    threads = [threading.Thread(target=publish_all, args=[kind]) for kind in given.types]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopped.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
