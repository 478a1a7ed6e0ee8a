"""``manage.py publish``: put payloads into a subscription type."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError

from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing import PublishError, check_payload, publish, publish_many
from realtime.publishing.ndjson import decode_object

CHUNK = 256 * 1024
PROGRESS_SECONDS = 0.5


class Command(BaseCommand):
    """Publishes one payload, printing its offset, or newline-delimited JSON from standard input."""

    help = (
        "Publish a JSON object and print its offset, or with - one object from each line of "
        "standard input."
    )
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare type and payload."""
        parser.add_argument("type", choices=SUBSCRIPTION_TYPES)
        parser.add_argument("payload", metavar="JSON", help="a JSON object, or - to read lines")
        parser.add_argument(
            "--skip-invalid", action="store_true", help="go on after a line that is no payload"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish, or say in one line why not."""
        try:
            if options["payload"] == "-":
                self._publish_lines(options["type"], _input(), options["skip_invalid"])
            else:
                position = publish(options["type"], _decode(options["payload"]))
                self.stdout.write(str(position.offset if position else ""))
        except ValueError as error:
            raise CommandError(str(error)) from None
        except PublishError as error:
            raise CommandError(f"{error}. Is a server running? See manage.py serve.") from None
        except KeyboardInterrupt:
            raise CommandError("interrupted", returncode=130) from None

    def _publish_lines(self, kind: str, source: int, skip_invalid: bool) -> None:
        progress = _Progress(sys.stderr)
        number = 0
        try:
            for lines in _read_lines(source):
                batch: list[dict[str, Any]] = []
                try:
                    for line in lines:
                        number += 1
                        if line.strip():
                            self._take(batch, line, number, skip_invalid)
                finally:
                    # Also what came before a bad line.
                    publish_many(kind, batch)
                    progress.add(len(batch))
        finally:
            progress.end()

    def _take(
        self, batch: list[dict[str, Any]], line: bytes, number: int, skip_invalid: bool
    ) -> None:
        try:
            batch.append(_decode(line))
        except ValueError as error:
            if not skip_invalid:
                raise ValueError(f"line {number}: {error}") from None
            self.stderr.write(f"line {number}: {error}; skipped")


def _input() -> int:
    """Return the descriptor of standard input. Raises ``ValueError`` if there is none."""
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.fileno()


def _read_lines(source: int) -> Iterator[list[bytes]]:
    """Yield the complete lines of what can be read at once, so that none waits for the next."""
    rest = b""
    while chunk := os.read(source, CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


class _Progress:
    """Counts on standard error, if a person sees it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._count = 0
        self._shown_at = 0.0

    def add(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if self._stream.isatty() and now - self._shown_at >= PROGRESS_SECONDS:
            self._shown_at = now
            self._stream.write(f"\r{self._count:,} published")
            self._stream.flush()

    def end(self) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{self._count:,} published\n")


def _decode(text: str | bytes) -> dict[str, Any]:
    """Return a payload. Raises ``ValueError``."""
    payload = decode_object(text)
    check_payload(payload)
    return payload
