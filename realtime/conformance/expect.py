"""What a check expects: each function raises :class:`Differs` with what was received instead."""

from __future__ import annotations

from typing import Any

from realtime.conformance.catalogue import POSITION, Differs, Message, Scene
from realtime.protocol import ERROR_TEXTS, ErrorCode
from realtime.testing.client import Client

SUBSCRIBED = {"type", "filters", "recovered", "replayed"} | POSITION


def equal(subject: str, received: Any, wanted: Any) -> None:
    """Compare two values."""
    if received != wanted:
        raise Differs(f"{subject}: expected {wanted!r}, received {received!r}")


def keys(subject: str, received: Any, wanted: set[str]) -> None:
    """Compare the keys of an object."""
    if not isinstance(received, dict):
        raise Differs(f"{subject}: expected an object, received {received!r}")
    missing, surplus = sorted(wanted - received.keys()), sorted(received.keys() - wanted)
    faults = [f"lacks {missing}"] * bool(missing) + [f"has {surplus}"] * bool(surplus)
    if faults:
        raise Differs(f"{subject}: {' and '.join(faults)}")


def that(expectation: str, is_met: bool, received: Any) -> None:
    """Check a condition; *expectation* names it."""
    if not is_met:
        raise Differs(f"expected {expectation}, received {received!r}")


async def reply(client: Client, message: Any, wanted: str) -> Message:
    """Send a message and return the answer, which must have a type."""
    answer: Message = await client.call(message)
    equal(f"the type of the answer to {str(message)[:80]}", answer["type"], wanted)
    return answer


async def subscribed(scene: Scene, client: Client, **data: Any) -> Message:
    """Subscribe, to this run's messages unless filters are named; return the answer's data."""
    data = {"filters": scene.filters} | data
    answer: Message = (await reply(client, scene.subscribe(**data), "subscribed"))["data"]
    return answer


async def error(client: Client, message: Any, code: str) -> Message:
    """Send a message and return the data of its error, which must have this code and its text."""
    data: Message = (await reply(client, message, "error"))["data"]
    equal(f"the code of the answer to {str(message)[:80]}", data["code"], code)
    text = ERROR_TEXTS[ErrorCode(code)]
    # After a colon follows what is wrong.
    is_same = data["error"].startswith(text) if text.endswith(": ") else data["error"] == text
    that(f"error {text!r} as the answer to {str(message)[:80]}", is_same, data["error"])
    return data


async def numbers(scene: Scene, client: Client, count: int) -> list[Any]:
    """Return the ``n`` of the next messages."""
    return [(await client.assert_data(scene.kind)).get("n") for _ in range(count)]


async def closed(client: Client, code: int, reason: str | None = None) -> None:
    """Read until the server closes, which it must do with this code."""
    try:
        await client.assert_closed(code, reason)
    except TimeoutError:
        raise Differs(f"expected to be closed with {code}, but was not closed") from None
