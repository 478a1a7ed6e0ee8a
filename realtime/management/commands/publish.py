"""``manage.py publish``: publish payloads to a subscription type."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from realtime.management.running import refuse_unfit_stores
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing import publish, publish_many
from realtime.publishing.publication import PublishError, check_payload, decode_object

CHUNK = 256 * 1024
PROGRESS_SECONDS = 0.5


class Command(BaseCommand):
    """Publishes one payload, printing its offset, or newline-delimited JSON from standard input."""

    help = (
        "Publish a JSON object and print its offset, or with - an object from each line of "
        "standard input."
    )
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("type", choices=SUBSCRIPTION_TYPES)
        parser.add_argument("payload", metavar="JSON", help="a JSON object, or - to read lines")
        parser.add_argument(
            "--skip-invalid", action="store_true", help="go on after a line that is no payload"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish; if that fails, the error is one line."""
        refuse_unfit_stores()
        try:
            if options["payload"] == "-":
                self._publish_lines(options["type"], options["skip_invalid"])
            else:
                position = publish(options["type"], decode_object(options["payload"]))
                self.stdout.write(str(position.offset if position else ""))
        except ValueError as error:
            raise CommandError(str(error)) from None
        except PublishError as error:
            raise CommandError(f"{error}. Is a server running? See manage.py serve.") from None
        except KeyboardInterrupt:
            raise CommandError("interrupted", returncode=130) from None

    def _publish_lines(self, kind: str, skip_invalid: bool) -> None:
        """Publish lines as they come; a terminal shows how many."""
        number = published = 0
        shown_at = 0.0
        for lines in _read_lines():
            payloads: list[dict[str, Any]] = []
            try:
                self._decode(lines, number, payloads, skip_invalid)
            finally:
                publish_many(kind, payloads)  # also those before a line that is invalid
                published += len(payloads)
                if time.monotonic() - shown_at >= PROGRESS_SECONDS:
                    shown_at = time.monotonic()
                    _show_progress(published)
            number += len(lines)
        _show_progress(published, end="\n")

    def _decode(
        self, lines: Sequence[bytes], before: int, payloads: list[dict[str, Any]], skip: bool
    ) -> None:
        """Add the payloads of lines to *payloads*; *before* is how many lines came before."""
        for number, line in enumerate(lines, before + 1):
            try:
                if line.strip():
                    payload = decode_object(line)
                    check_payload(payload)
                    payloads.append(payload)
            except ValueError as error:
                if not skip:
                    raise ValueError(f"line {number}: {error}") from None
                self.stderr.write(f"line {number}: {error}; skipped")


def _read_lines() -> Iterator[list[bytes]]:
    """Yield the complete lines of what can be read at once, so that none waits for the next."""
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    unfinished = b""
    while chunk := os.read(sys.stdin.fileno(), CHUNK):
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        yield lines
    yield [unfinished]


def _show_progress(count: int, end: str = "") -> None:
    if sys.stderr.isatty():
        print(f"\r{count:,} published", end=end, file=sys.stderr, flush=True)
