"""Checks of error codes and close codes."""

from __future__ import annotations

import uuid
from typing import Any

from websockets.exceptions import ConnectionClosed

from realtime.conformance.catalogue import (
    TYPES,
    Differs,
    Scene,
    Skip,
    check,
    expect,
    expect_that,
    not_checked,
)
from realtime.testing.client import Client

# More than any sensible limit.
MANY = 5000
HUGE = 64 * 1024 * 1024

not_checked(
    "a client cannot make a server lose messages, restart, or lack its database",
    "error data_lost",
    "error restarting",
    "error unavailable",
    "close 1012",
    "close 1011",
)
not_checked("it would keep others out", "close 1013")


async def refused(client: Client, message: Any, code: str, error: str) -> dict[str, Any]:
    """Send a message and expect an error of this code and text; ``…`` ends what must be equal."""
    reply = await client.call(message)
    what = f"the answer to {str(message)[:80]}"
    expect(f"{what}: type", reply["type"], "error")
    data: dict[str, Any] = reply["data"]
    expect(f"{what}: code", data["code"], code)
    start, open_end, _ = error.partition("…")
    same = data["error"].startswith(start) if open_end else data["error"] == error
    expect_that(f"error {error!r} in {what}", same, data["error"])
    return data


@check("error invalid_message")
async def _invalid_message(scene: Scene) -> None:
    """What cannot be read is named."""
    error = "Invalid message format: …"
    async with scene.connect() as client:
        messages: list[Any] = [
            "",
            "{",
            "[]",
            "1",
            "null",
            '{"type": NaN}',
            {"type": 5},
            {"data": {}},
            {"type": "ping", "data": 5},
            {"type": "ping", "metadata": []},
            {"type": "subscribe"},
            {"type": "unsubscribe", "data": {}},
            {"type": "subscribe", "data": {"type": scene.kind}, "subscription_id": "x" * 65},
        ]
        for wrong in messages:
            await refused(client, wrong, "invalid_message", error)
        expect("after all of these, the answer to ping", await client.positions(), {})


@check("error unknown_type")
async def _unknown_type(scene: Scene) -> None:
    """A type that there is not comes back in the details."""
    async with scene.connect() as client:
        data = await refused(client, {"type": "no"}, "unknown_type", "Unknown message type")
        expect("details", data.get("details"), {"type": "no"})


@check("error auth_required")
async def _auth_required(scene: Scene) -> None:
    """Before authentication only auth and ping are answered."""
    async with scene.connect(authenticated=False) as client:
        for message in (
            {"type": "subscribe", "data": {"type": "events"}},
            {"type": "unsubscribe", "data": {"subscription_id": "x"}},
        ):
            reply = await client.call(message)
            if reply["type"] == "subscribed":
                raise Skip("the server requires no authentication")
            data = reply["data"]
            expect("code", data["code"], "auth_required")
            expect("error", data["error"], "Authentication required")


@check("error forbidden")
async def _forbidden(scene: Scene) -> None:
    """A type that the token does not allow."""
    others = [kind for kind in TYPES if kind not in scene.allowed]
    if not others:
        raise Skip("the token allows all types: give one that does not")
    async with scene.connect() as client:
        message = {"type": "subscribe", "data": {"type": others[0]}}
        await refused(client, message, "forbidden", "Not permitted")


@check("error invalid_subscription")
async def _invalid_subscription(scene: Scene) -> None:
    """Wrong types, filters, positions and rewinds."""
    error = "Invalid subscription: …"
    wrong: list[dict[str, Any]] = [
        {"type": "nothing"},
        {"filters": {"a..b": 1}},
        {"filters": {"": 1}},
        {"filters": {"a": []}},
        {"filters": {"a": {}}},
        {"filters": {"a": [[1]]}},
        {"filters": {"x" * 257: 1}},
        {"filters": {".".join("x" * 17): 1}},
        {"filters": {f"x{n}": 1 for n in range(33)}},
        {"filters": {"a": list(range(1001))}},
        {"resume": {"epoch": "x"}},
        {"resume": {"epoch": "x", "offset": -1}},
        {"rewind": 1001},
    ]
    async with scene.connect() as client:
        for data in wrong:
            message = {"type": "subscribe", "data": {"type": scene.kind} | data}
            await refused(client, message, "invalid_subscription", error)


@check("error unknown_subscription")
async def _unknown_subscription(scene: Scene) -> None:
    """An end of what there is not."""
    async with scene.connect() as client:
        message = {"type": "unsubscribe", "data": {"subscription_id": "none"}}
        await refused(client, message, "unknown_subscription", "Unknown subscription")


@check("error duplicate_subscription")
async def _duplicate_subscription(scene: Scene) -> None:
    """A chosen id that is in use for something else."""
    async with scene.connect() as client:
        await client.subscribe(scene.kind, {"n": 1}, subscription_id="mine")
        other = {"type": scene.kind, "filters": {"n": 2}}
        message = {"type": "subscribe", "data": other, "subscription_id": "mine"}
        await refused(client, message, "duplicate_subscription", "Duplicate subscription")


@check("error rate_limited", slow=True)
async def _rate_limited(scene: Scene) -> None:
    """Too many messages in a minute; says when to try again."""
    async with scene.connect() as client:
        for _ in range(MANY):
            reply = await client.call({"type": "ping"})
            if reply["type"] == "error":
                data = reply["data"]
                expect("code", data["code"], "rate_limited")
                expect("error", data["error"], "Rate limit exceeded")
                wait = data["details"]["retry_after"]
                expect_that("retry_after within a minute", 0 < wait <= 60, wait)
                return
    raise Skip(f"{MANY} messages are within the limit")


@check("error too_many_subscriptions", slow=True)
async def _too_many_subscriptions(scene: Scene) -> None:
    """More subscriptions than a connection may have."""
    async with scene.connect() as client:
        for number in range(MANY):
            data = {"type": scene.kind, "filters": scene.filters | {"n": number}}
            reply = await client.call({"type": "subscribe", "data": data})
            if reply["type"] == "error":
                if reply["data"]["code"] == "rate_limited":
                    raise Skip("the rate limit comes first")
                expect("code", reply["data"]["code"], "too_many_subscriptions")
                expect("error", reply["data"]["error"], "Too many subscriptions")
                return
    raise Skip(f"{MANY} subscriptions are within the limit")


async def closed(client: Client, code: int, reason: str | None = None) -> None:
    """Expect the server to close with a code."""
    try:
        await client.assert_closed(code, reason)
    except TimeoutError:
        raise Differs(f"expected to be closed with {code}, but was not closed") from None


@check("close 1008")
async def _policy_violation(scene: Scene) -> None:
    """The third failed authentication."""
    async with scene.connect(authenticated=False) as client:
        for _ in range(3):
            await client.send({"type": "auth", "data": {"token": uuid.uuid4().hex}})
        await closed(client, 1008, "authentication failed")


@check("close 1009")
async def _too_big(scene: Scene) -> None:
    """A message that is too big."""
    async with scene.connect() as client:
        # The head of a frame that declares so many bytes; the server need not wait for them.
        head = b"\x81\xff" + HUGE.to_bytes(8, "big") + bytes(4)
        client.socket.transport.write(head + bytes(2048))
        try:
            await closed(client, 1009)
        except ConnectionClosed:  # while more was on its way
            raise Differs("the connection was cut without a close frame") from None


@check("close 1007")
async def _invalid_text(scene: Scene) -> None:
    """Text that is not UTF-8."""
    async with scene.connect() as client:
        await client.socket.send(b"\xff\xfe", text=True)
        await closed(client, 1007)


@check("close 1002")
async def _protocol_error(scene: Scene) -> None:
    """A frame that there is not."""
    async with scene.connect() as client:
        client.socket.transport.write(b"\x83\x80" + bytes(4))
        await closed(client, 1002)
