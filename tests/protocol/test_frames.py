"""Frames as RFC 6455 and RFC 7692 have them, read by another implementation."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime.protocol import (
    STORED_END,
    deflate,
    header,
    split_frames,
    stored_block,
    text_frame,
)

thorough = settings(deadline=None, max_examples=100)

# Either side of where the length of a frame takes more bytes.
LENGTHS = [0, 1, 125, 126, 127, 65_535, 65_536, 100_000]


def read_frames(data: bytes, deflated: bool = False) -> list[Frame]:
    """Read frames as a client of another library does."""
    extensions = [PerMessageDeflate(True, True, 15, 15)] if deflated else None
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames = []
    while not finish(reader.at_eof()):
        frames.append(finish(Frame.parse(reader.read_exact, mask=False, extensions=extensions)))
    return frames


def finish(reading: Generator[None, None, Any]) -> Any:
    """Return what reading from bytes that are all there gives."""
    try:
        next(reading)
    except StopIteration as done:
        return done.value
    raise AssertionError("the data end within a frame")


@pytest.mark.parametrize("length", LENGTHS)
def test_a_frame_is_read_by_others(length: int) -> None:
    [frame] = read_frames(text_frame(b"x" * length))
    assert frame == Frame(Opcode.TEXT, b"x" * length)
    assert (frame.fin, frame.rsv1, frame.rsv2, frame.rsv3) == (True, False, False, False)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_lengths_are_written_in_the_fewest_bytes(length: int, expected: bytes) -> None:
    assert header(length) == expected
    assert header(length, deflated=True) == b"\xc1" + expected[1:]


@given(st.lists(st.binary(max_size=300) | st.sampled_from(LENGTHS).map(bytes), max_size=5))
@thorough
def test_frames_are_split_into_what_they_were_made_of(payloads: list[bytes]) -> None:
    frames = b"".join(text_frame(payload) for payload in payloads)
    assert list(split_frames(frames)) == payloads
    assert [frame.data for frame in read_frames(frames)] == payloads


@given(st.binary(max_size=2000), st.binary(max_size=80), st.binary(max_size=80))
@thorough
def test_one_compressed_part_serves_different_ends(
    shared: bytes, first: bytes, second: bytes
) -> None:
    compressed = deflate(shared)
    frames = b""
    for tail in (first, second):
        body = compressed + stored_block(len(tail)) + tail + STORED_END
        frames += header(len(body), deflated=True) + body
    assert [frame.data for frame in read_frames(frames, deflated=True)] == [
        shared + first,
        shared + second,
    ]


@pytest.mark.parametrize("length", [0, 1, 256, 65_535])
def test_a_stored_block_holds_up_to_65535_bytes(length: int) -> None:
    stream = stored_block(length) + b"x" * length + STORED_END + b"\x00\x00\xff\xff"
    reader = zlib.decompressobj(wbits=-15)
    assert reader.decompress(stream) == b"x" * length
    assert not reader.unused_data


def test_compressing_makes_text_smaller() -> None:
    assert len(deflate(b'{"carrier":"UA"}' * 100)) < 100
