"""What tests of the hub share: connections that record, messages, and what is held in memory."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

from realtime.filters.compiler import compile_filters
from realtime.hub.groups import SharedFrames, Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message
from realtime.protocol import PAYLOAD_KEYS
from realtime.protocol.subscribe import SubscribeRequest

TIME = 1_704_110_400.0


TIMESTAMP = "2024-01-01T12:00:00.000Z"


class RecordingOutlet:
    """A connection that keeps what is written to it."""

    def __init__(self, deflated: bool = False) -> None:
        self.deflated = deflated
        self.written = b""

    def write(self, frames: bytes) -> None:
        """Keep the frames."""
        self.written += frames

    def take(self) -> list[dict[str, Any]]:
        """Return the messages received since the last look."""
        received, self.written = list(read_messages(self.written, self.deflated)), b""
        return received


def read_messages(frames: bytes, deflated: bool) -> Iterable[dict[str, Any]]:
    """Read unmasked text frames as RFC 6455 and RFC 7692 have them."""
    while frames:
        first, length = frames[0], frames[1]
        assert first & 0xBF == 0x81, "a text frame, whole, without reserved bits but RSV1"
        start = 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(frames[2:start], "big")
        payload, frames = frames[start : start + length], frames[start + length :]
        assert len(payload) == length
        if first & 0x40:
            assert deflated, "compressed for a client that does not take it"
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        yield json.loads(payload)


def message(kind: str, payload: Any) -> Message:
    """Return a published message."""
    return Message(kind, json.dumps(payload).encode(), TIME)


def deliver(hub: Hub, kind: str, *payloads: Any) -> None:
    """Do with what is published what the node does."""
    messages = [message(kind, payload) for payload in payloads]
    for shared in hub.share_frames(kind, messages):
        assert shared.messages
        write(shared)


def write(shared: SharedFrames) -> None:
    """Write frames to those for whom they are."""
    for subscription in shared.subscriptions:
        if subscription.sent_until < shared.messages[-1].number:
            subscription.sent_until = shared.messages[-1].number
            subscription.outlet.write(shared.frames)


def subscribe(
    hub: Hub, outlet: RecordingOutlet, kind: str, wanted: Any = None, own_id: str | None = None
) -> Subscription:
    """Subscribe, actively."""
    compiled = compile_filters(wanted)
    subscription_id = own_id or SubscribeRequest(kind, compiled, {}).derive_id()
    subscription = hub.subscribe(outlet, kind, compiled, subscription_id)
    hub.activate(subscription)
    return subscription


def expected_message(kind: str, payload: Any, subscription_id: str) -> dict[str, Any]:
    """Return the ``data`` message of the contract."""
    return {
        "type": "data",
        "data": {PAYLOAD_KEYS[kind]: payload, "subscription_type": kind},
        "timestamp": TIMESTAMP,
        "metadata": {},
        "subscription_id": subscription_id,
    }


def reachable(*roots: object) -> int:
    """Count the objects that are held through *roots*, classes, code and constants aside."""
    seen: dict[int, object] = {}
    waiting: list[object] = list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | FunctionType | ModuleType | str | int):
            continue
        seen[id(item)] = item
        waiting.extend(gc.get_referents(item))
    return len(seen)
