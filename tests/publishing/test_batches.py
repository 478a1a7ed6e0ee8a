"""Streams of lines: what is published together, what is reported, and what may be repeated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from realtime.cluster.clients import Unavailable
from realtime.log import get_log
from realtime.log.contract import Append, Appended, MemoryLog
from realtime.protocol import Position
from realtime.publishing.batches import (
    MOST_LINES,
    SHOWN,
    Batches,
    InvalidPayload,
    Lines,
    too_large,
)
from realtime.publishing.publication import PublishError, decode_object
from tests.support.layers import IN_MEMORY, Configure

KIND = "events"
LONGEST = 100


class Revoked(Exception):
    """The publisher may not publish any more."""


class Numbers:
    """A publisher of numbers: other lines are invalid. Its rights last for some batches."""

    def __init__(self, batches_allowed: int = 1000) -> None:
        self.batches_allowed = batches_allowed

    def check(self, text: bytes) -> bytes:
        """Return the payload of a number."""
        if len(text) > LONGEST:
            raise too_large(LONGEST)
        if not text.isdigit():
            raise InvalidPayload("invalid_message", f"no number: {text.decode()}")
        return b'{"n":%d}' % int(text)

    async def check_rights(self) -> None:
        """Allow one batch less."""
        if self.batches_allowed == 0:
            raise Revoked
        self.batches_allowed -= 1


class Reader:
    """What has been published since a moment."""

    def __init__(self, start: Position) -> None:
        self._start = start

    async def numbers(self) -> list[int]:
        """Return all numbers that have been published, in their order."""
        numbers: list[int] = []
        while True:
            chunk = await get_log().read(KIND, self._start.offset + len(numbers))
            if not chunk.entries:
                return numbers
            numbers += [json.loads(entry.body)["n"] for entry in chunk.entries]


@pytest.fixture
async def reader(configure: Configure) -> AsyncIterator[Reader]:
    """Reads the log of this process, which keeps all that a test publishes."""
    configure(history_size=str(5 * MOST_LINES), history_ttl="3600")
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        yield Reader((await get_log().heads([KIND]))[KIND])


def stream(key: str | None = None, *, skips: bool = False, allowed: int = 1000) -> Batches:
    """Return a stream of which nothing has come."""
    return Batches(Numbers(allowed), KIND, "me", key, LONGEST, skips)


def lines(numbers: Iterable[int]) -> bytes:
    """Return numbers, one a line."""
    return b"".join(b"%d\n" % number for number in numbers)


async def test_lines_are_published_as_they_come(reader: Reader) -> None:
    batches = stream()
    await batches.feed(b"1\n2\r\n3")
    assert await reader.numbers() == [1, 2]
    assert batches.report["count"] == 2 and batches.next_line == 3
    await batches.feed(b"4\n\n \n")
    report = await batches.end()
    assert await reader.numbers() == [1, 2, 34]
    assert report["count"] == 3 and report["last"] - report["first"] == 2
    assert batches.next_line == 6


async def test_the_last_line_needs_no_end(reader: Reader) -> None:
    batches = stream()
    await batches.feed(b"1\n2")
    assert (await batches.end())["count"] == 2
    assert await reader.numbers() == [1, 2]


async def test_nothing_is_reported_of_nothing(reader: Reader) -> None:
    report = await stream().end()
    assert report == {"count": 0, "epoch": None, "first": None, "last": None}
    assert await reader.numbers() == []


async def test_an_invalid_line_ends_the_stream_after_those_before_it(reader: Reader) -> None:
    batches = stream("key")
    with pytest.raises(InvalidPayload, match="no number: x") as caught:
        await batches.feed(b"1\n2\nx\n4\n")
    assert caught.value.code == "invalid_message"
    assert await reader.numbers() == [1, 2]
    assert batches.next_line == 3 and batches.report["count"] == 2


async def test_invalid_lines_may_be_skipped(reader: Reader) -> None:
    batches = stream(skips=True)
    await batches.feed(b"1\nx\n3\n" + b"y\n" * (SHOWN + 5) + b"0" * (LONGEST + 50))
    report = await batches.end()
    assert await reader.numbers() == [1, 3]
    assert report["count"] == 2 and report["skipped"] == SHOWN + 7
    assert [error["line"] for error in report["errors"]] == [2, *range(4, 4 + SHOWN - 1)]
    assert report["errors"][0]["error"] == "no number: x"


async def test_a_line_that_is_too_long_is_refused_before_it_ends(reader: Reader) -> None:
    batches = stream("key")
    await batches.feed(b"1\n" + b"0" * LONGEST)
    with pytest.raises(InvalidPayload) as caught:
        await batches.feed(b"0" * 2)
    assert caught.value.code == "too_large"
    assert await reader.numbers() == [1] and batches.next_line == 2


async def test_many_lines_are_several_batches(reader: Reader) -> None:
    batches = stream("several", allowed=2)
    numbers = list(range(2 * MOST_LINES + 10))
    with pytest.raises(Revoked):
        await batches.feed(lines(numbers))
        await batches.end()
    assert await reader.numbers() == numbers[: 2 * MOST_LINES]
    assert batches.next_line == 2 * MOST_LINES + 1
    assert batches.report["count"] == 2 * MOST_LINES


async def test_with_a_key_the_same_lines_are_published_once(reader: Reader) -> None:
    numbers = list(range(MOST_LINES + 10))
    first = stream("once")
    await first.feed(lines(numbers))  # and then the client has gone
    assert await reader.numbers() == numbers[:MOST_LINES]
    again = stream("once")
    for piece in (lines(numbers)[:77], lines(numbers)[77:]):  # as it happens to arrive
        await again.feed(piece)
    report = await again.end()
    assert await reader.numbers() == numbers
    assert report["count"] == len(numbers) and report["first"] == first.report["first"]
    repeated = stream("once")  # equal batches of one stream are not the same
    await repeated.feed(lines([7] * 2 * MOST_LINES))
    assert (await repeated.end())["count"] == 2 * MOST_LINES
    assert await reader.numbers() == numbers + [7] * 2 * MOST_LINES
    other = stream("once")
    await other.feed(lines([7]))
    assert (await other.end())["first"] == repeated.report["last"] + 1


async def test_publishing_may_fail(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def be_away(*_: Any) -> None:
        raise Unavailable("away")

    batches = stream()
    await batches.feed(b"1\n")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLog, "append", be_away)
        with pytest.raises(PublishError):
            await batches.feed(b"2\n3\n")
    assert batches.next_line == 2 and batches.report["count"] == 1
    assert await reader.numbers() == [1]


@pytest.mark.parametrize("key", [None, "once"])
@pytest.mark.parametrize("pieces", [1, 3, 10_000])
async def test_who_goes_on_after_an_answer_that_was_lost_repeats_nothing(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, key: str | None, pieces: int
) -> None:
    """The log had the batch when its answer was lost; the client goes on from its first line."""
    append = MemoryLog.append

    def lose_the_answer(log: MemoryLog, what: Append) -> Appended:
        append(log, what)
        raise Unavailable("lost")

    batches = stream(key)
    await batches.feed(b"1\n")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLog, "append", lose_the_answer)
        with pytest.raises(PublishError):
            await batches.feed(lines(range(2, 10)))
            await batches.end()
    others = [1, *range(2, 10), *range(100, 400)][batches.next_line - 1 :]
    again = stream(batches.retry_key)
    text = lines(others)
    for start in range(0, len(text), pieces):
        await again.feed(text[start : start + pieces])
    report = await again.end()
    assert await reader.numbers() == [*range(1, 10), *range(100, 400)]
    assert report["count"] == len(others)


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
