"""A stream of lines on its way into the log: what is published together, and what has been.

Knows nothing of where the lines come from or who may publish.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any, Protocol

from realtime.publishing.publication import apublish_checked, derive_key

MOST_LINES = 1000
MOST_BYTES = 1024 * 1024
# Seconds for which a key that a client has not made itself is remembered.
RETRY_TTL = 300
# A key under which a client may send again what may have been published: how many lines, a token.
_RETRY_KEY = re.compile(r"retry-([1-9][0-9]{0,3})-[\w-]+")
# How many of the lines that were skipped are named in the report.
SHOWN = 10


class InvalidPayload(Exception):
    """A payload that may not be published; ``code`` is that of an error message, or its like."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Publisher(Protocol):
    """Who publishes, as :class:`Batches` needs it."""

    def check(self, text: bytes) -> bytes:
        """Return a payload as it is published. Raises :class:`InvalidPayload`."""

    async def check_rights(self) -> None:
        """Raise, if the publisher may not publish any more. Called before each batch."""


class Lines:
    """Cuts newline-delimited JSON, as it arrives, into lines: each ends with LF or CR LF.

    The last may end with the input, as github.com/ndjson/ndjson-spec says. Of a line longer than
    *longest* bytes a little more is kept, so that the reader sees that it is too long.
    """

    def __init__(self, longest: int) -> None:
        self._most = longest + 2  # it may end with a carriage return
        # The line that has begun.
        self._begun = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that *chunk* completes, without their ends."""
        first, newline, others = chunk.partition(b"\n")
        self._begun += first[: max(0, self._most - len(self._begun))]
        if not newline:
            return []
        lines = [bytes(self._begun)]
        *complete, begun = others.split(b"\n")
        self._begun = bytearray(begun[: self._most])
        return lines + complete

    @property
    def is_too_long(self) -> bool:
        """Whether the line that has begun is longer than any may be."""
        return len(self._begun) == self._most

    def end(self) -> list[bytes]:
        """Return the line that ends with the input, if there is one."""
        last, self._begun = bytes(self._begun), bytearray()
        return [last] if last else []


class Batches:
    """The lines of one stream of payloads of a type, published in batches, in their order.

    With a *key*, the same lines under the same key are published once within ``history_ttl``,
    however often they are sent. For that they must be cut in the same places each time, so what
    says where to cut is the lines alone, not when they came. Each batch's key is made of *key*,
    the batch's number and its payloads, so other lines under the same key are published.

    If anything is raised, ``report`` says what has been published and ``next_line`` is the first
    line that has neither been published nor skipped. After a :class:`PublishError` the log may have
    the batch that begins there. Whoever sends the lines from there on under ``retry_key`` gets that
    batch published once, since the key says how many lines it has.

    Keys of one *owner* are not those of another.
    """

    def __init__(
        self,
        publisher: Publisher,
        kind: str,
        owner: str,
        key: str | None,
        longest: int,
        skip_invalid: bool,
    ) -> None:
        self._publisher = publisher
        self._kind = kind
        self._owner = owner
        retried = _RETRY_KEY.fullmatch(key or "")
        self._key = None if retried else key
        self.retry_key = key if retried else None
        self._most_lines = int(retried[1]) if retried else MOST_LINES
        self._skip_invalid = skip_invalid
        self._longest = longest
        self._lines = Lines(longest)
        # Payloads that have not been published yet, as JSON text; they, empty lines and lines that
        # were skipped since the last batch; and the bytes of those lines.
        self._payloads: list[bytes] = []
        self._line_count = 0
        self._size = 0
        self._batch_number = 0
        self._last_line = 0
        self.next_line = 1
        self.report: dict[str, Any] = {"count": 0, "epoch": None, "first": None, "last": None}

    async def feed(self, chunk: bytes) -> None:
        """Take a part of the stream; publish what may be published.

        Raises :class:`PublishError`, and :class:`InvalidPayload` if a line is invalid and not to be
        skipped; all before it is published.
        """
        for line in self._lines.feed(chunk):
            await self._take(line)
        if self._lines.is_too_long and not self._skip_invalid:
            await self._publish()
            raise too_large(self._longest)
        if self._key is None and self.retry_key is None:
            await self._publish()

    async def end(self) -> dict[str, Any]:
        """Take the end of the stream, publish what waits, and return the report. Raises as above"""
        for line in self._lines.end():
            await self._take(line)
        await self._publish()
        return self.report

    async def _take(self, line: bytes) -> None:
        """Add a line to the batch; publish the batch if that is full."""
        text = line.removesuffix(b"\r")
        try:
            if text.strip():
                self._payloads.append(self._publisher.check(text))
        except InvalidPayload as error:
            if not self._skip_invalid:
                await self._publish()
                raise
            self.report["skipped"] = self.report.get("skipped", 0) + 1
            errors = self.report.setdefault("errors", [])
            if len(errors) < SHOWN:
                errors.append({"line": self._last_line + 1, "error": str(error)})
        self._last_line += 1
        self._line_count += 1
        self._size += len(line)
        if self._line_count >= self._most_lines or self._size >= MOST_BYTES:
            await self._publish()

    async def _publish(self) -> None:
        """Publish what waits; the next line begins another batch."""
        if self._payloads:
            await self._publisher.check_rights()
            self.retry_key = self.retry_key or self._make_key()
            key, ttl = derive_key(self._owner, self.retry_key), None if self._key else RETRY_TTL
            first = await apublish_checked(self._kind, self._payloads, key, ttl)
            report = self.report
            if report["epoch"] != first.epoch:  # the first batch, or the log was lost meanwhile
                report |= {"epoch": first.epoch, "first": first.offset}
            report["last"] = first.offset + len(self._payloads) - 1
            report["count"] += len(self._payloads)
        self._batch_number += 1
        self.retry_key, self._most_lines = None, MOST_LINES
        self._line_count = self._size = 0
        self._payloads = []
        self.next_line = self._last_line + 1

    def _make_key(self) -> str:
        token = secrets.token_urlsafe(12)
        if self._key is not None:
            digest = hashlib.sha256(b"".join(payload + b"\n" for payload in self._payloads))
            token = derive_key(self._key, self._batch_number, digest.hexdigest())
        return f"retry-{self._line_count}-{token}"


def too_large(longest: int) -> InvalidPayload:
    """Return the error of a payload that is larger than any may be."""
    return InvalidPayload("too_large", f"Larger than max_message_size ({longest} bytes)")
