"""What the server sends, and what a publisher may give."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Generator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime.protocol import (
    ERROR_TEXTS,
    PAYLOAD_KEYS,
    STORED_END,
    SUBSCRIPTION_TYPES,
    ErrorCode,
    Position,
    ProtocolError,
    deflate,
    encode,
    encode_data_head,
    encode_data_tail,
    encode_error,
    encode_payload,
    format_timestamp,
    header,
    split_frames,
    stored_block,
    text_frame,
)
from tests.protocol.values import NOON, json_values, text, thorough

NAN = float("nan")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOON, "2024-01-01T12:00:00.000Z"),
        (NOON + 0.25, "2024-01-01T12:00:00.250Z"),
        (NOON + 0.9999999, "2024-01-01T12:00:01.000Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(seconds: float, written: str) -> None:
    assert format_timestamp(seconds) == written


def test_a_message_has_only_the_parts_it_was_given() -> None:
    assert json.loads(encode("pong", NOON)) == {
        "type": "pong",
        "timestamp": "2024-01-01T12:00:00.000Z",
    }
    metadata = msgspec.Raw(b'{"n":1}')
    assert json.loads(encode("unsubscribed", NOON, {}, "id", metadata)) == {
        "type": "unsubscribed",
        "data": {},
        "timestamp": "2024-01-01T12:00:00.000Z",
        "metadata": {"n": 1},
        "subscription_id": "id",
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_is_sent_with_text_and_code(code: ErrorCode) -> None:
    words = ERROR_TEXTS[code]
    explanation = "why" if words.endswith(": ") else ""
    message = json.loads(encode_error(ProtocolError(code, explanation), NOON))
    assert message["type"] == "error"
    assert message["data"] == {"error": words + explanation, "code": code.value}
    with_details = encode_error(ProtocolError(code, details={"retry_after": 1.5}), NOON)
    assert json.loads(with_details)["data"]["details"] == {"retry_after": 1.5}
    of_a_subscription = encode_error(ProtocolError(code), NOON, "an-id")
    assert json.loads(of_a_subscription)["subscription_id"] == "an-id"
    assert "subscription_id" not in json.loads(with_details)


@given(text, st.dictionaries(text, json_values, max_size=4), text)
@thorough
def test_encoding_loses_nothing(kind: str, data: dict[str, Any], subscription_id: str) -> None:
    message = json.loads(encode(kind, NOON, data, subscription_id))
    assert message["type"] == kind
    assert message["data"] == data
    assert message["subscription_id"] == subscription_id


@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
def test_a_data_message_is_the_documents(kind: str) -> None:
    expected = {
        "type": "data",
        "data": {PAYLOAD_KEYS[kind]: {"n": 1}, "subscription_type": kind},
        "timestamp": "2024-01-01T12:00:00.000Z",
        "metadata": {"epoch": "0123456789abcdef", "offset": 12345678901234567},
        "subscription_id": "an-id",
    }
    position = Position("0123456789abcdef", 12345678901234567)
    head = encode_data_head(kind, b'{"n":1}', "2024-01-01T12:00:00.000Z", position)
    assert json.loads(head + encode_data_tail("an-id")) == expected
    head = encode_data_head(kind, b'{"n":1}', "2024-01-01T12:00:00.000Z")
    assert json.loads(head + encode_data_tail("an-id")) == expected | {"metadata": {}}


def test_what_differs_between_clients_comes_last() -> None:
    head = encode_data_head("events", b"{}", "2024-01-01T12:00:00.000Z", Position("e", 1))
    assert head.endswith(b'"subscription_id":"')
    assert encode_data_tail("an-id") == b'an-id"}'


# What a publisher gives


@given(st.dictionaries(text, json_values, max_size=5))
@thorough
def test_a_payload_arrives_as_it_was_given(payload: dict[str, Any]) -> None:
    assert json.loads(encode_payload(payload)) == payload


@pytest.mark.parametrize(
    "payload",
    [None, [], [{}], "{}", b"{}", 1, True, [("a", 1)], {1, 2}],
)
def test_a_payload_that_is_no_object_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"^payload: expected an object, got \w+$"):
        encode_payload(payload)


@pytest.mark.parametrize(
    "payload",
    [
        {"a": NAN},
        {"a": math.inf},
        {"a": [1, {"b": -math.inf}]},
        {"a": (1, NAN)},
        {"a": None, "b": [None, NAN]},
        {"a": object()},
        {"a": lambda: None},
        {None: 1},
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_a_payload_that_json_cannot_hold_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON \(.+\)$"):
        encode_payload(payload)


def test_a_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload({"a": 10**5000})


def nested(depth: int, innermost: Any) -> dict[str, Any]:
    """Return an object in an object, and so on."""
    value: Any = innermost
    for _ in range(depth):
        value = {"a": value}
    return {"a": value}


def test_a_payload_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(nested(10_000, 1))


@pytest.mark.parametrize("depth", [10, 300, 700])
def test_nulls_may_be_deep_and_nan_is_found_there(depth: int) -> None:
    assert encode_payload(nested(depth, None)).count(b"{") == depth + 1
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(nested(depth, NAN))


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: dict[str, Any] = {"nothing": None}
    payload["itself"] = payload
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(payload)


# Frames as RFC 6455 and RFC 7692 have them, read by another implementation.


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
