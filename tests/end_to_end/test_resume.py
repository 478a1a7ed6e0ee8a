"""Resume: a client that was away gets what it missed, then what is live; no gap, no repeat."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from realtime.protocol import SUBSCRIPTION_TYPES as KINDS
from tests.support import Client, Position, Server, client, following, newest, running


async def expect_resumed(page: Client, missed: list[Position], **data: Any) -> None:
    """Subscribe with a position; check the answer and the replay."""
    answer = await page.subscribed("events", **data)
    assert (answer["recovered"], answer["replayed"]) == (True, len(missed))
    await page.assert_positions(missed)


async def test_what_was_missed_comes_first_then_what_is_live(server: Server, token: str) -> None:
    start = await newest(server, token)
    missed = server.publish("events", *({"n": n} for n in range(20)))
    async with client(server, token) as page:
        answer = await page.subscribed("events", resume=start)
        assert answer == {
            "type": "events",
            "filters": {},
            **missed[-1],
            "recovered": True,
            "replayed": 20,
        }
        live = server.publish("events", {"n": 20})
        for n, position in enumerate(missed + live):
            message = await page.receive()
            assert message["metadata"] == position
            assert message["data"] == {"event": {"n": n}, "subscription_type": "events"}
        await page.assert_silent()


async def test_a_replayed_message_is_the_message(server: Server, token: str) -> None:
    async with client(server, token) as page:
        answer = await page.subscribed("events")
        server.publish("events", {"text": 'é𝄞\u2028"\\', "deep": [{"x": None}], "big": 2**70})
        live = await page.receive()
    async with client(server, token) as page:
        resume = {"epoch": answer["epoch"], "offset": answer["offset"]}
        await page.subscribed("events", resume=resume)
        assert await page.receive() == live


async def test_from_each_position(server: Server, token: str) -> None:
    positions = server.publish("events", *({"n": n} for n in range(5)))
    for count, position in enumerate(positions, 1):
        async with client(server, token) as page:
            await expect_resumed(page, positions[count:], resume=position)
            await page.assert_silent()


@pytest.mark.parametrize("kind", KINDS)
async def test_of_each_type(server: Server, token: str, kind: str) -> None:
    first, *missed = server.publish(kind, *({"n": n} for n in range(3)))
    async with client(server, token) as page:
        answer = await page.subscribed(kind, resume=first)
        assert (answer["recovered"], answer["replayed"]) == (True, 2)
        await page.assert_positions(missed)


class TestFilters:
    """Only what matches is replayed."""

    async def test_the_clients_own(self, server: Server, token: str) -> None:
        start = await newest(server, token)
        missed = server.publish("events", *({"v": {"n": n}} for n in range(100)))
        async with client(server, token) as page:
            filters = {"v.n": [3, 50.0, 99, 100]}
            matching = [missed[3], missed[50], missed[99]]
            await expect_resumed(page, matching, filters=filters, resume=start)
            live = server.publish("events", {"v": {"n": 101}}, {"v": {"n": 100}})
            await page.assert_positions(live[1:])
            await page.assert_silent()

    async def test_nothing_matches(self, server: Server, token: str) -> None:
        start = await newest(server, token)
        missed = server.publish("events", *({"n": n} for n in range(1000)))
        async with client(server, token) as page:
            await expect_resumed(page, [], filters={"no": True}, resume=start)
            (position,) = (await page.positions()).values()
            assert position == missed[-1]

    async def test_the_tokens(self, server: Server) -> None:
        """A token's filters hold whatever the client asks for: no others are ever seen."""
        tenant = server.token("--filter", "tenant_id=acme")
        start = await newest(server, tenant)
        missed = server.publish(
            "events",
            *({"tenant_id": ("acme", "other")[n % 2], "n": n // 2} for n in range(100)),
        )
        ours = missed[::2]
        questions: list[tuple[dict[str, Any], list[Position]]] = [
            ({"resume": start}, ours),
            ({"resume": missed[1]}, ours[1:]),  # a position that is not its own
            ({"resume": start, "filters": {"n": 3}}, [ours[3]]),
            ({"resume": start, "filters": {"tenant_id": "other"}}, []),
            ({"resume": start, "filters": {"tenant_id": ["other", "acme"]}}, ours),
        ]
        for data, expected in questions:
            async with client(server, tenant) as page:
                await expect_resumed(page, expected, **data)
                await page.assert_silent()

    async def test_the_tokens_on_rewind(self, server: Server) -> None:
        tenant = server.token("--filter", "tenant_id=acme")
        sent = server.publish(
            "events", *({"tenant_id": ("acme", "other")[n % 2]} for n in range(100))
        )
        for data, expected in (
            ({"rewind": 30}, sent[-60::2]),
            ({"rewind": 30, "resume": {"epoch": "another", "offset": 1}}, sent[-60::2]),
            ({"rewind": 1000, "filters": {"tenant_id": "other"}}, []),
        ):
            async with client(server, tenant) as page:
                answer = await page.subscribed("events", **data)
                assert (answer["recovered"], answer["replayed"]) == (False, len(expected))
                await page.assert_positions(expected)
                await page.assert_silent()


class TestPositionsThatAreNotThere:
    """``recovered`` says so, and delivery starts at what is retained."""

    async def test_zero_is_the_beginning(self, data_dir: Any) -> None:
        with running(data_dir, require_auth="false") as server:
            async with client(server) as page:
                start = await page.subscribed("events")
                assert start["offset"] == 0 and start["epoch"]
            sent = server.publish("events", *({"n": n} for n in range(3)))
            assert [position["offset"] for position in sent] == [1, 2, 3]
            async with client(server) as page:
                resume = {"epoch": start["epoch"], "offset": 0}
                await expect_resumed(page, sent, resume=resume)
                await page.assert_silent()

    @pytest.mark.parametrize("beyond", [1, 1000, 2**53, 2**63 - 1])
    async def test_above_the_newest(self, server: Server, token: str, beyond: int) -> None:
        (last,) = server.publish("events", {"n": 0})
        async with client(server, token) as page:
            resume = last | {"offset": last["offset"] + beyond}
            answer = await page.subscribed("events", resume=resume)
            assert answer == {
                "type": "events",
                "filters": {},
                **last,
                "recovered": False,
                "replayed": 0,
            }
            await page.assert_positions(server.publish("events", {"n": 1}))

    @pytest.mark.parametrize("epoch", ["", "another", "é" * 1000, "0" * 16])
    async def test_another_epoch(self, server: Server, token: str, epoch: str) -> None:
        sent = server.publish("alerts", *({"n": n} for n in range(3)))
        async with client(server, token) as page:
            resume = {"epoch": epoch, "offset": sent[-1]["offset"]}
            answer = await page.subscribed("alerts", resume=resume)
            assert answer["recovered"] is False and answer["epoch"] == sent[0]["epoch"]
            assert answer["replayed"] >= 3
            messages = [await page.receive() for _ in range(answer["replayed"])]
            assert [message["metadata"] for message in messages[-3:]] == sent
            await page.assert_silent()


INVALID: list[tuple[str, Any]] = [
    ("resume", "0"),
    ("resume", 0),
    ("resume", True),
    ("resume", []),
    ("resume", ["epoch", 0]),
    ("resume", {}),
    ("resume", {"offset": 0}),
    ("resume.epoch", {"epoch": None, "offset": 0}),
    ("resume.epoch", {"epoch": 1, "offset": 0}),
    ("resume.epoch", {"epoch": ["a"], "offset": 0}),
    ("resume.offset", {"epoch": "a"}),
    ("resume.offset", {"epoch": "a", "offset": None}),
    ("resume.offset", {"epoch": "a", "offset": "0"}),
    ("resume.offset", {"epoch": "a", "offset": True}),
    ("resume.offset", {"epoch": "a", "offset": 1.0}),
    ("resume.offset", {"epoch": "a", "offset": 1.5}),
    ("resume.offset", {"epoch": "a", "offset": -1}),
    ("resume.offset", {"epoch": "a", "offset": 1e300}),
    ("resume.offset", {"epoch": "a", "offset": {}}),
    ("rewind", "1"),
    ("rewind", True),
    ("rewind", False),
    ("rewind", 1.0),
    ("rewind", -1),
    ("rewind", 1001),
    ("rewind", 10**30),
    ("rewind", [1]),
    ("rewind", {"n": 1}),
]


async def test_what_cannot_be_read_is_named(server: Server, token: str) -> None:
    async with client(server, token) as page:
        for field, value in INVALID:
            data = {"type": "events", field.partition(".")[0]: value}
            await page.send({"type": "subscribe", "data": data, "metadata": {"value": str(value)}})
            error = await page.assert_error("invalid_subscription")
            assert error["error"].startswith(f"Invalid subscription: {field}"), (value, error)
        server.publish("events", {"n": 1})
        await page.assert_silent()


async def test_a_huge_offset_is_above_the_newest_or_refused(server: Server, token: str) -> None:
    (last,) = server.publish("events", {"n": 0})
    async with client(server, token) as page:
        for offset in (2**53 + 1, 2**63, 2**64, 10**30, 10**300):
            data = {"type": "events", "resume": {"epoch": last["epoch"], "offset": offset}}
            reply = await page.call({"type": "subscribe", "data": data, "subscription_id": "a"})
            if reply["type"] == "error":
                assert reply["data"]["code"] == "invalid_subscription", reply
                assert "resume" in reply["data"]["error"]
            else:
                assert reply["data"]["recovered"] is False and reply["data"]["replayed"] == 0
                await page.call({"type": "unsubscribe", "data": {"subscription_id": "a"}})
        await page.assert_silent()


async def test_null_is_as_if_it_were_not_there(server: Server, token: str) -> None:
    server.publish("events", {"n": 0})
    async with client(server, token) as page:
        answer = await page.subscribed("events", resume=None, rewind=None)
        assert (answer["recovered"], answer["replayed"]) == (False, 0)
        await page.assert_silent()


async def test_a_subscription_that_exists_is_not_resumed(server: Server, token: str) -> None:
    start = await newest(server, token)
    server.publish("events", {"n": 0})
    async with client(server, token) as page:
        await page.subscribe("events", subscription_id="mine")
        for data in ({"resume": start}, {"rewind": 1}, {"resume": start, "rewind": 1}):
            answer = await page.subscribed("events", **data)
            assert (answer["recovered"], answer["replayed"]) == (False, 0)
        await page.assert_silent()
        await page.assert_positions(server.publish("events", {"n": 1}))
        await page.assert_silent()
        # Once it is gone it can be.
        await page.call({"type": "unsubscribe", "data": {"subscription_id": "mine"}})
        await expect_resumed(page, following(start, 2), resume=start)


async def test_many_subscriptions_of_one_connection(server: Server, token: str) -> None:
    starts = {kind: await newest(server, token, kind) for kind in KINDS}
    for kind in KINDS:
        server.publish(kind, *({"n": n, "text": "x" * 200} for n in range(300)))
    expected: dict[str, list[Position]] = {}
    async with client(server, token) as page:
        for kind, modulus in itertools.product(KINDS, range(10)):
            subscription_id = f"{kind}.{modulus}"
            matching = [n for n in range(300) if n % 10 == modulus]
            data = {"type": kind, "filters": {"n": matching}, "resume": starts[kind]}
            await page.send({"type": "subscribe", "data": data, "subscription_id": subscription_id})
            positions = following(starts[kind], 300)
            expected[subscription_id] = [positions[n] for n in matching]
        await expect_each(page, expected)
        await page.assert_silent()


async def expect_each(page: Client, expected: dict[str, list[Position]]) -> None:
    """Check that each subscription is confirmed and then gets its messages in order."""
    found: dict[str, list[Position]] = {}
    count = sum(1 + len(positions) for positions in expected.values())
    for _ in range(count):
        message = await page.receive()
        subscription_id = message["subscription_id"]
        if message["type"] == "subscribed":
            assert subscription_id not in found
            found[subscription_id] = []
            assert message["data"]["recovered"]
            assert message["data"]["replayed"] == len(expected[subscription_id])
        else:
            found[subscription_id].append(message["metadata"])
    assert found == expected


@pytest.mark.parametrize("filtered", [False, True])
async def test_coming_and_going_while_another_process_publishes(
    server: Server, twin: Server, token: str, filtered: bool
) -> None:
    """Cut off again and again, each time at another place, and back at the other process."""
    payloads = [{"n": n, "odd": n % 2} for n in range(6000)]
    position = start = await newest(server, token)
    wanted = following(start, len(payloads))
    if filtered:
        wanted = wanted[1::2]
    filters = {"odd": 1} if filtered else {}
    publishing = asyncio.create_task(asyncio.to_thread(server.publish_singly, "events", *payloads))
    found: list[Position] = []
    stays = itertools.cycle([1, 500, 20, 3, 900, 77])
    for process in itertools.cycle([server, twin]):
        async with client(process, token) as page:
            answer = await page.subscribed("events", filters=filters, resume=position)
            assert answer["recovered"]
            for _ in range(min(next(stays), len(wanted) - len(found))):
                message = await page.receive()
                found.append(message["metadata"])
                position = found[-1]
            if len(found) == len(wanted):
                await page.assert_silent()
                break
            page.socket.transport.abort()  # its network dies
    await publishing
    assert found == wanted


async def test_a_position_of_a_pong_is_as_good(server: Server, token: str) -> None:
    """Of the pong's and the last message's position a client takes the newer."""
    filters = {"rare": True}
    async with client(server, token) as page:
        start = await page.subscribed("events", filters=filters)
        server.publish("events", {"rare": True}, {"n": 0}, {"n": 1})
        await page.assert_positions(following(start, 1))
        (position,) = (await page.positions()).values()
    server.publish("events", {"n": 2})
    missed = server.publish("events", {"rare": True})
    async with client(server, token) as page:
        await expect_resumed(page, missed, filters=filters, resume=position)


async def test_over_another_process(server: Server, twin: Server, token: str) -> None:
    start = await newest(server, token)
    async with client(server, token) as page:
        await page.subscribe("events")
        missed = server.publish("events", {"n": 0}) + twin.publish("events", {"n": 1})
        await page.assert_positions(missed)
    for process in (twin, server):
        async with client(process, token) as page:
            await expect_resumed(page, missed, resume=start)
            missed += server.publish("events", {"n": 2}) + twin.publish("events", {"n": 3})
            await page.assert_positions(missed[-2:])


async def test_a_compressing_client(server: Server, token: str) -> None:
    payloads = [{"n": n, "text": f"compressed {n} " * 100} for n in range(200)]
    start = await newest(server, token)
    server.publish("events", *payloads)
    async with connect(server.url, compression="deflate") as socket:
        page = Client(socket)
        await page.authenticate(token)
        answer = await page.subscribed("events", resume=start)
        assert (answer["recovered"], answer["replayed"]) == (True, 200)
        server.publish("events", {"n": "live"})
        for payload in [*payloads, {"n": "live"}]:
            assert await page.assert_data("events") == payload


async def test_requests_sent_ahead(server: Server, token: str) -> None:
    """Resume, unsubscribe and resume again without waiting: each answer in its place."""
    start = await newest(server, token)
    positions = server.publish("events", *({"n": n, "text": "x" * 500} for n in range(1000)))
    resume = {"type": "subscribe", "data": {"type": "events", "resume": start}}
    goodbye = {"type": "unsubscribe"}
    async with client(server, token) as page:
        for message in (resume, goodbye, resume):
            await page.send(json.dumps(message | {"subscription_id": "mine"}))
        assert (await page.receive())["type"] == "subscribed"
        begun = []
        while (message := await page.receive())["type"] == "data":
            begun.append(message["metadata"])
        assert message["type"] == "unsubscribed"
        assert begun == positions[: len(begun)]
        assert (await page.receive())["data"]["replayed"] == 1000
        await page.assert_positions(positions)
        await page.assert_silent()
