"""The buffer of an event stream: what leaves together, and what a slow reader gets."""

from __future__ import annotations

import asyncio

from realtime.http.event_stream import CHUNK, EventTransport
from realtime.protocol import (
    CloseCode,
    CloseReason,
    Position,
    encode_data_head,
    encode_data_tail,
    sse,
    text_frame,
)

PLACE = Position("e1", 7)


def data_frames(payload: bytes, position: Position) -> bytes:
    """Return the frames of a message, as the hub makes them."""
    head = encode_data_head("events", payload, "2024-01-01T12:00:00.000Z", position)
    return text_frame(head + encode_data_tail("s"))


async def test_what_waits_leaves_together() -> None:
    transport = EventTransport(lambda: 10_000)
    frames = data_frames(b'{"a":1}', PLACE)
    transport.write(frames)
    transport.write(frames)
    assert await transport.read(1) == sse.events(frames) * 2
    assert transport.buffered_bytes() == transport.bytes_sent == len(sse.events(frames)) * 2
    assert await transport.read(0) == b""
    assert transport.buffered_bytes() == 0


async def test_who_waits_is_woken() -> None:
    transport = EventTransport(lambda: 10_000)
    reading = asyncio.create_task(transport.read(10))
    await asyncio.sleep(0)
    transport.write(data_frames(b"{}", PLACE))
    assert (await reading or b"").startswith(b"id: e1:7")


async def test_large_messages_leave_one_by_one() -> None:
    transport = EventTransport(lambda: 10 * CHUNK)
    large = data_frames(b'{"a":"%b"}' % (b"x" * CHUNK), PLACE)
    for _ in range(2):
        transport.write(large)
    assert await transport.read(1) == await transport.read(1) == sse.events(large)


async def test_a_client_that_does_not_read_is_closed() -> None:
    frames = data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE)
    transport = EventTransport(lambda: 3000)
    ended: list[CloseReason] = []
    transport.on_ended = ended.append
    for _ in range(5):
        transport.write(frames)
    assert ended == [CloseReason.SLOW_CONSUMER]
    assert transport.buffered_bytes() < 4000
    read = await transport.read(1) or b""
    assert read == sse.events(frames) * 2 + sse.close_event(
        CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER
    )
    assert await transport.read(1) is None


async def test_what_is_being_sent_counts_as_waiting() -> None:
    frames = data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE)
    transport = EventTransport(lambda: 2000)
    transport.write(frames)
    await transport.read(1)
    transport.write(frames)
    assert transport.closed is not None


async def test_one_large_message_is_taken_by_an_empty_buffer() -> None:
    transport = EventTransport(lambda: 100)
    transport.write(data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE))
    assert transport.closed is None


async def test_nothing_follows_the_end() -> None:
    transport = EventTransport(lambda: 10_000)
    transport.close(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_REVOKED)
    transport.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
    transport.write(data_frames(b"{}", PLACE))
    assert (
        await transport.read(1) == b'event: close\ndata: {"code":1008,"reason":"token revoked"}\n\n'
    )
    assert await transport.read(1) is None
