"""Newline-delimited JSON, cut into lines as it arrives. Pure."""

from __future__ import annotations


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
