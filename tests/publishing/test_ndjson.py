"""Lines are the same however the bytes arrive, and keep no more than one may be long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.publishing.ndjson import Lines, decode_object


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """Cut a text in places."""
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


@given(st.lists(st.binary(max_size=30)), st.lists(st.integers(0, 1000)), st.integers(1, 20))
def test_where_the_bytes_are_cut_does_not_matter(
    parts: list[bytes], places: list[int], longest: int
) -> None:
    text = b"\n".join(parts)
    lines = Lines(longest)
    found = [line for part in cut(text, places) for line in lines.feed(part)]
    found += lines.end()
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert len(found) == len(expected)
    for line, whole in zip(found, expected, strict=True):
        # What is too long may be cut, and stays too long.
        assert line == whole or (whole.startswith(line) and len(line) > longest + 1)


def test_a_line_that_is_too_long_shows_before_it_ends() -> None:
    lines = Lines(10)
    assert lines.feed(b"x\n" + b"y" * 11) == [b"x"]
    assert not lines.is_too_long  # the last may be of the line's end
    assert lines.feed(b"yy") == [] and lines.is_too_long
    assert lines.feed(b"y" * 1000 + b"\nz\n") == [b"y" * 12, b"z"]
    assert lines.end() == []


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", '{"a": NaN}', "{}{}", "[" * 100_000, "\ud800"]
)
def test_what_is_no_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|expected an object"):
        decode_object(text)
