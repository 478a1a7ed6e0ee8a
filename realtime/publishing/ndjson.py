"""Newline-delimited JSON, taken in as it arrives: lines, and the payload in each. Pure.

A line ends with ``\\n`` or ``\\r\\n``, the last one also with the input: the rules are those of
github.com/ndjson/ndjson-spec.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Lines:
    """Cuts chunks into lines. Of one longer than *longest* bytes only so much is kept, and some."""

    def __init__(self, longest: int) -> None:
        self._most = longest + 2  # it may end with a carriage return
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that *chunk* completes, without their ends."""
        first, newline, others = chunk.partition(b"\n")
        self._rest += first[: max(0, self._most - len(self._rest))]
        if not newline:
            return []
        lines = [bytes(self._rest)]
        *whole, rest = others.split(b"\n")
        self._rest = bytearray(rest[: self._most])
        return lines + whole

    @property
    def is_too_long(self) -> bool:
        """Whether the line that has begun is longer than any may be."""
        return len(self._rest) == self._most

    def end(self) -> list[bytes]:
        """Return the line that ends with the input, if there is one."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []


def decode_object(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ``ValueError``."""
    try:
        found = msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"payload: expected an object, got {type(found).__name__}")
    return found
