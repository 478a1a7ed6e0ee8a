"""Newline-delimited JSON, read as it arrives: lines, and the payload in each. Pure.

A line ends with ``\\n`` or ``\\r\\n``, the last one also with the input: the rules are those of
github.com/ndjson/ndjson-spec.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Lines:
    """Cuts chunks into lines, and bounds what is kept of a line that has not ended.

    Of a line longer than *longest* bytes a little more than that is kept, so that the reader sees
    that it is too long.
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


def decode_object(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ``ValueError``."""
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"payload: expected an object, got {type(value).__name__}")
    return value
