"""A process that publishes what it is told on standard input and answers each line when it has.

A line is ``[type, [payload, ...]]``. Starting a command takes most of a second, so tests keep one
of these.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Publish until standard input ends."""
    import django

    django.setup()
    from realtime import PublishError, publish_many

    for line in sys.stdin:
        kind, payloads = json.loads(line)
        try:
            publish_many(kind, payloads)
            print("published", flush=True)
        except PublishError as error:
            print(f"error: {error}", flush=True)


if __name__ == "__main__":
    main()
