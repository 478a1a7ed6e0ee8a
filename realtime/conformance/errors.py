"""Checks of error codes and close codes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from websockets.exceptions import ConnectionClosed

from realtime.conformance import expect
from realtime.conformance.catalogue import Differs, Message, Scene, Skip, client_check, not_checked
from realtime.testing.client import Client

# More than any sensible limit.
MANY = 5000
HUGE = 64 * 1024 * 1024
WRONG_FILTERS: list[dict[str, Any]] = [
    *({"a..b": 1}, {"": 1}, {"a": []}, {"a": {}}, {"a": [[1]]}, {"x" * 257: 1}),
    {".".join("x" * 17): 1},
    {f"x{number}": 1 for number in range(33)},
    {"a": list(range(1001))},
]

not_checked(
    "a client cannot make a server lose messages, restart, or lack its database",
    "error data_lost",
    "error restarting",
    "error unavailable",
    "close 1012",
    "close 1011",
)
not_checked("it would keep others out", "close 1013")


def check_refusal(
    code: str, about: str, text: str, messages: Callable[[Scene], Iterable[Any]]
) -> None:
    """Add a check that each of these messages is answered with an error of this code and text."""

    @client_check(f"error {code}", about)
    async def body(scene: Scene, client: Client) -> None:
        for message in messages(scene):
            await expect.error(client, message, code, text)
        expect.equal(
            "after that, the positions in the answer to ping", await client.positions(), {}
        )


check_refusal(
    "invalid_message",
    "What cannot be read is named",
    "Invalid message format: …",
    lambda scene: [
        *("", "{", "[]", "1", "null", '{"type": NaN}', {"type": 5}, {"data": {}}),
        {"type": "ping", "data": 5},
        {"type": "ping", "metadata": []},
        {"type": "subscribe"},
        {"type": "unsubscribe", "data": {}},
        scene.subscribe() | {"subscription_id": "x" * 65},
    ],
)
check_refusal(
    "forbidden",
    "A type that the token does not allow",
    "Not permitted",
    lambda scene: [scene.subscribe(type=scene.forbidden_type())],
)
check_refusal(
    "invalid_subscription",
    "Wrong types, filters, positions and rewinds",
    "Invalid subscription: …",
    lambda scene: [
        scene.subscribe(type="nothing"),
        *(scene.subscribe(filters=filters) for filters in WRONG_FILTERS),
        scene.subscribe(resume={"epoch": "x"}),
        scene.subscribe(resume={"epoch": "x", "offset": -1}),
        scene.subscribe(rewind=1001),
    ],
)
check_refusal(
    "unknown_subscription",
    "An end of what there is not",
    "Unknown subscription",
    lambda scene: [{"type": "unsubscribe", "data": {"subscription_id": "none"}}],
)


@client_check("error unknown_type")
async def _unknown_type(scene: Scene, client: Client) -> None:
    """A type that there is not comes back in the details."""
    data = await expect.error(client, {"type": "no"}, "unknown_type", "Unknown message type")
    expect.equal("details", data.get("details"), {"type": "no"})


@client_check("error auth_required", authenticated=False)
async def _auth_required(scene: Scene, client: Client) -> None:
    """Before authentication only auth and ping are answered."""
    if (await client.call(scene.subscribe()))["type"] == "subscribed":
        raise Skip("the server requires no authentication")
    unsubscribe = {"type": "unsubscribe", "data": {"subscription_id": "x"}}
    for message in (scene.subscribe(), unsubscribe):
        await expect.error(client, message, "auth_required", "Authentication required")


@client_check("error duplicate_subscription")
async def _duplicate_subscription(scene: Scene, client: Client) -> None:
    """A chosen id that is in use for something else."""
    await client.subscribe(scene.kind, {"n": 1}, subscription_id="chosen")
    message = scene.subscribe(filters={"n": 2}) | {"subscription_id": "chosen"}
    await expect.error(client, message, "duplicate_subscription", "Duplicate subscription")


async def first_error(client: Client, messages: Iterable[Message]) -> Message:
    """Send messages until the answer is an error; return its data."""
    for message in messages:
        reply = await client.call(message)
        if reply["type"] == "error":
            data: Message = reply["data"]
            return data
    raise Skip(f"{MANY} are within the limit")


@client_check("error rate_limited", slow=True)
async def _rate_limited(scene: Scene, client: Client) -> None:
    """Too many messages in a minute; says when to try again."""
    data = await first_error(client, ({"type": "ping"} for _ in range(MANY)))
    expect.equal("code", data["code"], "rate_limited")
    expect.equal("error", data["error"], "Rate limit exceeded")
    wait = data["details"]["retry_after"]
    expect.that("retry_after within a minute", 0 < wait <= 60, wait)


@client_check("error too_many_subscriptions", slow=True)
async def _too_many_subscriptions(scene: Scene, client: Client) -> None:
    """More subscriptions than a connection may have."""
    all_filters = (scene.filters | {"n": number} for number in range(MANY))
    data = await first_error(client, (scene.subscribe(filters=each) for each in all_filters))
    if data["code"] == "rate_limited":
        raise Skip("the rate limit comes first")
    expect.equal("code", data["code"], "too_many_subscriptions")
    expect.equal("error", data["error"], "Too many subscriptions")


async def closed(client: Client, code: int, reason: str | None = None) -> None:
    """Expect the server to close with a code."""
    try:
        await client.assert_closed(code, reason)
    except TimeoutError:
        raise Differs(f"expected to be closed with {code}, but was not closed") from None


@client_check("close 1008", authenticated=False)
async def _policy_violation(scene: Scene, client: Client) -> None:
    """The third failed authentication."""
    for _ in range(3):
        await client.send({"type": "auth", "data": {"token": uuid.uuid4().hex}})
    await closed(client, 1008, "authentication failed")


@client_check("close 1009")
async def _too_big(scene: Scene, client: Client) -> None:
    """A message that is too big."""
    # The head of a frame that declares so many bytes; the server need not wait for them.
    head = b"\x81\xff" + HUGE.to_bytes(8, "big") + bytes(4)
    client.socket.transport.write(head + bytes(2048))
    try:
        await closed(client, 1009)
    except ConnectionClosed:  # while more was on its way
        raise Differs("the connection was cut without a close frame") from None


@client_check("close 1007")
async def _invalid_text(scene: Scene, client: Client) -> None:
    """Text that is not UTF-8."""
    await client.socket.send(b"\xff\xfe", text=True)
    await closed(client, 1007)


@client_check("close 1002")
async def _protocol_error(scene: Scene, client: Client) -> None:
    """A frame of a kind that there is not."""
    client.socket.transport.write(b"\x83\x80" + bytes(4))
    await closed(client, 1002)
