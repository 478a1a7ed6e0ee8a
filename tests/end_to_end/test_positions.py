"""Positions: of messages, in answers, and from the calls and commands that publish."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from realtime.protocol import SUBSCRIPTION_TYPES as KINDS
from tests.support import Client, Server, client, following


class TestMessages:
    """Epoch and offset of messages."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_messages_have_the_positions_that_publishing_returned(
        self, server: Server, token: str, kind: str
    ) -> None:
        async with client(server, token) as page:
            start = await page.subscribed(kind)
            positions = server.publish(kind, *({"n": n} for n in range(3)))
            positions += server.publish(kind, {"n": 3})
            assert positions == following(start, 4)
            await page.assert_positions(positions)

    async def test_each_type_counts_for_itself(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            starts = {kind: await page.subscribed(kind) for kind in KINDS}
            for count, kind in enumerate(KINDS):
                server.publish(kind, *({"n": n} for n in range(count)))
            for count, kind in enumerate(KINDS):
                await page.assert_positions(following(starts[kind], count))

    async def test_filters_leave_gaps(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            start = await page.subscribed("events", filters={"n": [1, 4]})
            positions = server.publish("events", *({"n": n} for n in range(6)))
            assert positions == following(start, 6)
            await page.assert_positions([positions[1], positions[4]])
            await page.assert_silent()

    async def test_every_process_numbers_alike(
        self, server: Server, twin: Server, token: str
    ) -> None:
        async with client(server, token) as page, client(twin, token) as other:
            start = await page.subscribed("events")
            assert await other.subscribed("events") == start
            positions = [
                position
                for n in range(10)
                for position in (server, twin)[n % 2].publish("events", {"n": n})
            ]
            assert positions == following(start, 10)
            await page.assert_positions(positions)
            await other.assert_positions(positions)

    async def test_what_has_no_position_is_not_in_the_log(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            start = await page.subscribed("alerts")
            server.administer(
                "from asgiref.sync import async_to_sync\n"
                "async_to_sync(get_channel_layer().group_send)('realtime.alerts', "
                "{'type': 'stream.message', 'payload': {'n': 0}})"
            )
            message = await page.receive()
            assert (message["data"]["alert"], message["metadata"]) == ({"n": 0}, {})
            server.publish("alerts", {"n": 1})
            await page.assert_positions(following(start, 1))
        async with client(server, token) as page:
            position = {"epoch": start["epoch"], "offset": start["offset"]}
            answer = await page.subscribed("alerts", resume=position)
            assert (answer["recovered"], answer["replayed"]) == (True, 1)
            assert await page.assert_data("alerts") == {"n": 1}
            await page.assert_silent()


class TestSubscribed:
    """What the answer to ``subscribe`` says."""

    async def test_the_answer(self, server: Server, token: str) -> None:
        (newest,) = server.publish("events", {"n": 0})
        async with client(server, token) as page:
            answer = await page.subscribed("events", filters={"n": 1})
            assert answer == {
                "type": "events",
                "filters": {"n": 1},
                "epoch": newest["epoch"],
                "offset": newest["offset"],
                "recovered": False,
                "replayed": 0,
            }
            await page.assert_silent()

    async def test_it_says_where_live_delivery_begins(self, server: Server, token: str) -> None:
        """Also while another process publishes: from there on everything, nothing before."""
        payloads = [{"n": n} for n in range(300)]
        for _ in range(10):
            publishing = asyncio.create_task(
                asyncio.to_thread(server.publish_singly, "events", *payloads)
            )
            async with client(server, token) as page:
                answer = await page.subscribed("events")
                await publishing
                (last,) = server.publish("events", {"n": 300})
                await page.assert_positions(following(answer, last["offset"] - answer["offset"]))
                await page.assert_silent()

    async def test_subscribing_again_says_where_delivery_stands(
        self, server: Server, token: str
    ) -> None:
        async with client(server, token) as page:
            start = await page.subscribed("events")
            positions = server.publish("events", {"n": 0}, {"n": 1})
            await page.assert_positions(positions)
            assert await page.subscribed("events") == start | positions[-1]


class TestPong:
    """``pong`` says up to where everything that matches has been sent."""

    async def test_no_subscription_no_positions(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            assert (await page.call({"type": "ping"})).keys() == {"type", "timestamp"}
            subscription_id = await page.subscribe("events")
            assert (await page.positions()).keys() == {subscription_id}
            await page.call({"type": "unsubscribe", "data": {"subscription_id": subscription_id}})
            assert (await page.call({"type": "ping"})).keys() == {"type", "timestamp"}

    async def test_one_for_each_subscription(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            for kind in KINDS:
                await page.subscribe(kind, subscription_id=kind)
            await page.subscribe("events", {"n": 1}, subscription_id="filtered")
            newest = {kind: server.publish(kind, {"n": 0})[0] for kind in KINDS}
            for kind in KINDS:
                await page.assert_positions([newest[kind]])
            assert await page.positions() == newest | {"filtered": newest["events"]}

    async def test_it_advances_where_nothing_matches(self, server: Server, token: str) -> None:
        async with client(server, token) as page, client(server, token) as witness:
            subscription_id = await page.subscribe("events", {"rare": True})
            await witness.subscribe("events")
            positions = server.publish("events", *({"n": n} for n in range(50)))
            await witness.assert_positions(positions)
            assert await page.positions() == {subscription_id: positions[-1]}
        missed = server.publish("events", {"n": 0}, {"rare": True})
        async with client(server, token) as page:
            answer = await page.subscribed("events", filters={"rare": True}, resume=positions[-1])
            assert (answer["recovered"], answer["replayed"]) == (True, 1)
            await page.assert_positions(missed[1:])
            await page.assert_silent()

    async def test_everything_up_to_it_came_before_it_and_nothing_after(
        self, server: Server, token: str
    ) -> None:
        payloads = [{"n": n, "odd": n % 2} for n in range(4000)]
        async with client(server, token) as page:
            start = await page.subscribed("events", filters={"odd": 1})
            publishing = asyncio.create_task(
                asyncio.to_thread(server.publish_singly, "events", *payloads)
            )
            offsets: list[int] = []
            pongs = 0
            while len(offsets) < 2000:
                await page.send({"type": "ping"})
                position = await self.read_to_pong(page, offsets)
                # The next odd number is beyond the pong's position.
                sent = (position - start["offset"]) // 2
                assert len(offsets) == sent
                pongs += not publishing.done()
            await publishing
        assert pongs > 10
        assert offsets == list(range(start["offset"] + 2, start["offset"] + 4001, 2))

    @staticmethod
    async def read_to_pong(page: Client, offsets: list[int]) -> int:
        """Add the offsets of messages before the next pong; return its position's."""
        while (message := await page.receive())["type"] == "data":
            offsets.append(message["metadata"]["offset"])
        (position,) = message["data"]["positions"].values()
        offset: int = position["offset"]
        return offset


class TestPublishing:
    """Positions that publishers get."""

    async def test_every_call_returns_the_position(self, server: Server, token: str) -> None:
        statements = """
from asgiref.sync import async_to_sync
from realtime import apublish, publish
found = [publish(kind, {"n": 0}), async_to_sync(apublish)(kind, {"n": 1})]
found += publish_many(kind, [{"n": 2}, {"n": 3}])
assert {type(position).__name__ for position in found} == {"Position"}
result = [position._asdict() for position in found], publish_many(kind, [])
"""
        async with client(server, token) as page:
            start = await page.subscribed("metrics")
            positions, none = server.administer(statements, kind="metrics")
            assert positions == following(start, 4) and none == []
            await page.assert_positions(positions)

    async def test_more_than_one_round_trip_takes(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            start = await page.subscribed("predictions", filters={"n": [0, 11_999]})
            positions = await asyncio.to_thread(
                server.publish, "predictions", *({"n": n} for n in range(12_000))
            )
            assert positions == following(start, 12_000)
            await page.assert_positions([positions[0], positions[-1]])

    async def test_the_command_prints_the_offset(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            start = await page.subscribed("alerts")
            for position in following(start, 2):
                done = server.manage("publish", "alerts", '{"from": "the command"}')
                assert (done.returncode, done.stdout) == (0, f"{position['offset']}\n")
                await page.assert_positions([position])

    async def test_a_key_publishes_once_from_two_processes(
        self, server: Server, twin: Server, token: str
    ) -> None:
        statements = (
            "from realtime import publish\n"
            "result = [publish('events', {'by': by}, idempotency_key=key) for key in keys]"
        )
        keys = [uuid.uuid4().hex for _ in range(100)]
        async with client(server, token) as page:
            start = await page.subscribed("events")
            found = await asyncio.gather(
                *(
                    asyncio.to_thread(process.administer, statements, keys=keys, by=n)
                    for n, process in enumerate((server, twin))
                )
            )
            assert found[0] == found[1]
            await page.assert_positions(following(start, 100))
            await page.assert_silent()
        assert [offset for _, offset in found[0]] == list(
            range(start["offset"] + 1, start["offset"] + 101)
        )

    async def test_a_key_holds_for_its_type(self, server: Server, token: str) -> None:
        statements = """
from realtime import publish
key = str(timezone.now())
first = [publish(kind, {"n": 0}, idempotency_key=key) for kind in ("events", "alerts")]
again = [publish(kind, {"n": 1}, idempotency_key=key) for kind in ("events", "alerts")]
assert first == again, (first, again)
many = [publish_many("events", [{"n": n}] * 3, idempotency_key=key + "!") for n in (2, 3)]
assert many[0] == many[1], many
"""
        async with client(server, token) as page:
            await page.subscribe("events")
            await page.subscribe("alerts")
            server.administer(statements)
            # Types are in no order among each other.
            found = [(await page.receive())["data"] for _ in range(5)]
            await page.assert_silent()
        assert [one["event"]["n"] for one in found if "event" in one] == [0, 2, 2, 2]
        assert [one["alert"]["n"] for one in found if "alert" in one] == [0]
