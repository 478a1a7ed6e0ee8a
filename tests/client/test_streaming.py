"""The Python client against real servers, and through a proxy that breaks its connections."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import realtime.client.connection
from realtime.client import (
    AuthenticationError,
    Closed,
    Gap,
    Message,
    Position,
    Refused,
    State,
    StreamingClient,
    Subscription,
)
from tests.support import ROOT, TIMEOUT, Server, environment, free_port, running, wait_until
from tests.system.faults.disconnects import LAST, disturb, publish, through_proxy

# So that tests need not wait.
BACKOFF = (0.01, 0.1)


async def take(subscription: Subscription, count: int) -> list[Message]:
    """Return the next messages."""
    async with asyncio.timeout(TIMEOUT):
        return [await anext(subscription) for _ in range(count)]


def numbers(messages: list[Message]) -> list[int]:
    return [message.payload["n"] for message in messages]


async def until(states: list[State], wanted: State) -> None:
    async with asyncio.timeout(TIMEOUT):
        while states[-1:] != [wanted]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_messages_with_their_positions(server: Server, token: str) -> None:
    publish(server, 1, 2, 3)
    states: list[State] = []
    async with StreamingClient(server.url, token, on_state=states.append) as client:
        events = await client.subscribe("events", {"n": [2, 3, 4]}, rewind=2)
        assert numbers(await take(events, 2)) == [2, 3]
        publish(server, 4)
        [message] = await take(events, 1)
        assert (message.type, message.payload) == ("events", {"n": 4})
        assert message.position == events.position
        assert message.timestamp.endswith("Z")
        with pytest.raises(Refused, match="Invalid subscription") as refused:
            await client.subscribe("nothing")
        assert refused.value.code == "invalid_subscription"
        await client.unsubscribe(events)
        await client.unsubscribe(events)
        assert [message async for message in events] == []
        assert client.subscriptions == {}
    assert states == [State.CONNECTING, State.OPEN, State.CLOSED]
    async with StreamingClient(server.url, token) as client:
        assert message.position is not None
        before = message.position._replace(offset=message.position.offset - 1)
        again = await client.subscribe("events", resume=before)
        assert await take(again, 1) == [
            Message("events", {"n": 4}, message.timestamp, message.position, again.id)
        ]


async def test_an_explanation(server: Server, token: str) -> None:
    publish(server, 1, 2, 3)
    async with StreamingClient(server.url, token, backoff=BACKOFF) as client:
        plain = await client.subscribe("events")
        assert plain.explanation is None
        events = await client.subscribe("events", {"n": {"gt": 2}}, rewind=1, explain=True)
        assert events.explanation is not None
        found = events.explanation
        assert 1 <= found["matching"] == found["paths"]["n"]["matching"] < found["retained"]
        assert numbers(await take(events, 1)) == [3]
        shared = await client.subscribe("events", {"n": {"gt": 2.0}}, explain=True)
        assert shared.explanation == found
        publish(server, 4)
        assert numbers(await take(events, 1)) == numbers(await take(shared, 1)) == [4]
        assert events.explanation is found
        assert "explain" not in events.request()["data"]


async def test_options(server: Server, token: str) -> None:
    """Messages of a batch come one by one; equal options are one subscription, others are not."""
    less: dict[str, Any] = {"max_rate": 50, "conflate": "k", "batch_ms": 50, "fields": ["n", "k"]}
    async with StreamingClient(server.url, token) as client:
        first = await client.subscribe("metrics", {"on": True}, on_overflow="drop", **less)
        equal = await client.subscribe("metrics", {"on": True}, on_overflow="drop", **less)
        plain = await client.subscribe("metrics", {"on": True})
        assert first.wire_id == equal.wire_id != plain.wire_id
        rows = [{"n": n, "k": n % 3} for n in range(30)]
        sent = server.publish("metrics", *(row | {"on": True} for row in rows))
        assert numbers(await take(plain, 30)) == list(range(30))
        for subscription in (first, equal):
            found: list[Message] = []
            while len({message.payload["n"] for message in found} & {27, 28, 29}) < 3:
                found += await take(subscription, 1)
            assert numbers(found) == sorted(set(numbers(found)))
            assert found[-1].payload == {"n": 29, "k": 2}
            assert found[-1].position is not None
            assert found[-1].position._asdict() == sent[-1] and found[-1].timestamp.endswith("Z")
        refused: list[dict[str, Any]] = [{"max_rate": 0}, {"fields": []}, {"on_overflow": "wait"}]
        for wrong in refused:
            [name] = wrong
            with pytest.raises(Refused, match=f"Invalid subscription: {name}: "):
                await client.subscribe("metrics", **wrong)


async def test_options_outlive_a_connection(server: Server, token: str) -> None:
    async with through_proxy(server) as (proxy, url):
        states: list[State] = []
        async with StreamingClient(url, token, backoff=BACKOFF, on_state=states.append) as client:
            alerts = await client.subscribe("alerts", conflate="k", batch_ms=1, max_rate=0.001)
            server.publish("alerts", {"n": 0, "k": 0})
            assert numbers(await take(alerts, 1)) == [0]
            # Held back, for a long time, until another connection resumes.
            server.publish("alerts", *({"n": n, "k": n % 2} for n in range(1, 7)))
            proxy.reset()
            assert numbers(await take(alerts, 2)) == [5, 6]


def test_a_position_of_the_server_may_be_behind() -> None:
    subscription = Subscription("events", {}, "s", resume=Position("e", 5))
    for place, expected in (
        ({"epoch": "e", "offset": 4}, Position("e", 5)),
        ({"epoch": "e", "offset": 6}, Position("e", 6)),
        ({"epoch": "f", "offset": 1}, Position("f", 1)),
    ):
        subscription.advance(place)
        assert subscription.received == expected


async def test_fifty_disconnects_and_every_message_once(server: Server, token: str) -> None:
    async with through_proxy(server) as (proxy, url):
        gaps: list[Gap] = []
        async with StreamingClient(url, token, backoff=BACKOFF) as client:
            events = await client.subscribe("events", on_gap=gaps.append)
            rare = await client.subscribe("events", {"n": LAST}, on_gap=gaps.append)
            equal = await client.subscribe("events", {"n": [LAST]}, on_gap=gaps.append)

            disturbing = asyncio.create_task(disturb(server, proxy))
            received: list[int] = []
            async with asyncio.timeout(60):
                while LAST not in received:
                    received.append((await anext(events)).payload["n"])
            await disturbing
            assert [n for n in received if n != -1] == list(range(LAST + 1))
            for subscription in (rare, equal):
                assert numbers(await take(subscription, 1)) == [LAST]
            assert gaps == []


async def test_equal_subscriptions(server: Server, token: str) -> None:
    """Each gets what it asked for, though the server has one subscription for them."""
    position = server.publish("events", {"n": 0}, {"n": 1}, {"n": 2})[0]
    async with StreamingClient(server.url, token, backoff=BACKOFF) as streaming:
        ahead = await streaming.subscribe("events")
        publish(server, 3)
        assert numbers(await take(ahead, 1)) == [3]
        resume = position["epoch"], position["offset"]
        behind = await streaming.subscribe("events", resume=resume)
        assert numbers(await take(behind, 3)) == [1, 2, 3]
        other = await streaming.subscribe("events")
        publish(server, 4)
        for subscription in (ahead, behind, other):
            assert numbers(await take(subscription, 1)) == [4]
        await streaming.unsubscribe(ahead)
        publish(server, 5)
        for subscription in (behind, other):
            assert numbers(await take(subscription, 1)) == [5]


@pytest.mark.processes
async def test_a_server_that_restarts(data_dir: Path) -> None:
    port = str(free_port())
    states: list[State] = []
    with running(data_dir, "--port", port, drain_timeout="2") as first:
        token = first.new_token()
        client = StreamingClient(first.url, token, on_state=states.append, backoff=BACKOFF)
        await client.connect()
        events = await client.subscribe("events")
        publish(first, 1)
        assert numbers(await take(events, 1)) == [1]
        first.process.send_signal(signal.SIGTERM)
        await until(states, State.RECOVERING)
    with running(data_dir, "--port", port) as second:
        publish(second, 2)
        assert numbers(await take(events, 1)) == [2]
        await until(states, State.OPEN)
        await client.close()


async def test_a_revoked_token(server: Server) -> None:
    token = server.new_token(name="revoked")
    async with StreamingClient(server.url, token) as client:
        events = await client.subscribe("events")
        server.manage("revoke_token", "revoked")
        with pytest.raises(Closed, match="token revoked") as closed:
            await take(events, 1)
        assert closed.value.code == 1008
        assert client.state is State.CLOSED
        with pytest.raises(Closed):
            await client.subscribe("events")
    with pytest.raises(AuthenticationError, match="Invalid credentials"):
        await StreamingClient(server.url, token).connect()


async def test_a_token_for_each_connection(server: Server) -> None:
    made: list[str] = []

    async def make() -> str:
        if len(made) == 1:
            made.append("")
            raise OSError("the identity provider is away")
        made.append(await asyncio.to_thread(server.new_token))
        return made[-1]

    async with through_proxy(server) as (proxy, url):
        states: list[State] = []
        async with StreamingClient(url, make, backoff=BACKOFF, on_state=states.append) as client:
            events = await client.subscribe("events")
            proxy.reset()
            await until(states, State.RECOVERING)
            publish(server, 7)
            assert numbers(await take(events, 1)) == [7]
    assert len(made) == 3


async def test_a_type_that_is_not_allowed_any_more(server: Server) -> None:
    token = server.new_token(name="narrowed")
    async with StreamingClient(server.url, token) as client:
        events = await client.subscribe("events")
        server.administer(
            "t = AccessToken.objects.get(name='narrowed'); t.types = ['alerts']; t.save()"
        )
        with pytest.raises(Refused, match="Not permitted"):
            await take(events, 1)
        assert client.state is State.OPEN


async def test_a_network_that_is_dead(
    server: Server, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.client.connection, "ANSWER_TIMEOUT", 0.3)
    async with through_proxy(server) as (proxy, url):
        states: list[State] = []
        client = StreamingClient(url, token, heartbeat=0.2, backoff=BACKOFF, on_state=states.append)
        async with client:
            events = await client.subscribe("events")
            proxy.flowing.clear()
            await until(states, State.RECOVERING)
            publish(server, 1)
            proxy.flowing.set()
            assert numbers(await take(events, 1)) == [1]


@pytest.mark.processes
async def test_a_log_that_is_lost(data_dir: Path) -> None:
    gaps: list[Gap] = []
    with running(data_dir) as server:
        async with StreamingClient(server.url, server.new_token()) as client:
            events = await client.subscribe("events", on_gap=gaps.append)
            publish(server, 1)
            await take(events, 1)
            server.administer(
                "from realtime.cluster.clients import sync_client\n"
                "from realtime.cluster.layer import layer_servers\n"
                "sync_client(layer_servers()[0]).flushall()"
            )
            publish(server, 2)
            assert numbers(await take(events, 1)) == [2]
    assert [gap.reason for gap in gaps] == ["epoch_changed"]


async def test_an_application_that_is_slow(
    server: Server, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.client.connection, "ANSWER_TIMEOUT", 0.1)
    states: list[State] = []
    async with StreamingClient(server.url, token, heartbeat=0.1, on_state=states.append) as client:
        events = await client.subscribe("events")
        publish(server, *range(3000))
        await asyncio.sleep(1.0)  # the time that it takes over the first message
        assert numbers(await take(events, 3000)) == list(range(3000))
    assert states == [State.CONNECTING, State.OPEN, State.CLOSED]


async def test_nobody_there() -> None:
    tries: asyncio.Queue[None] = asyncio.Queue()

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        tries.put_nowait(None)

    async with await asyncio.start_server(hang_up, "127.0.0.1", port := free_port()):
        client = StreamingClient(f"ws://127.0.0.1:{port}/", "x", backoff=BACKOFF)
        connecting = asyncio.create_task(client.connect())
        async with asyncio.timeout(TIMEOUT):
            for _ in range(3):
                await tries.get()
        assert not connecting.done() and client.state is State.CONNECTING
        await client.close()
    with pytest.raises(Closed):
        await connecting
    with pytest.raises(Closed, match="isn't a valid URI"):
        await StreamingClient("http://", "x").connect()


@pytest.mark.processes
def test_it_needs_no_django() -> None:
    program = "import realtime.client, sys; print('django' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


class TestTail:
    """``manage.py tail``."""

    @pytest.fixture
    def tail(self, server: Server) -> Iterator[Any]:
        started: list[subprocess.Popen[str]] = []

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "tail", *arguments, "--url", server.url],
                env=environment(server.data_dir),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_it_prints_what_comes(self, server: Server, tail: Any) -> None:
        position = server.publish("alerts", {"n": 1, "severity": "high"}, {"n": 2})[0]
        process = tail("alerts", "--filter", "severity=high", "--rewind", "5")
        first = json.loads(process.stdout.readline())
        assert first.pop("timestamp").endswith("Z")
        assert first == {
            "alert": {"n": 1, "severity": "high"},
            "subscription_type": "alerts",
            **position,
        }
        server.publish("alerts", {"n": 3, "severity": "low"}, {"n": 4, "severity": "high"})
        assert json.loads(process.stdout.readline())["alert"]["n"] == 4
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, errors) == (130, "connecting\nopen\n")
        count = "result = AccessToken.objects.filter(name='manage.py tail').count()"
        assert server.administer(count) == 0

    def test_it_explains(self, server: Server, tail: Any) -> None:
        # What is retained is of other tests, too, but nothing of it has this.
        server.publish("alerts", {"explained": {"n": 1}}, {"explained": {"n": 70}})
        arguments = ['explained.n={"gte": 60}', '$or=[{"explained.x": 1}, {"explained.n": 70}]']
        options = [option for text in arguments for option in ("--filter", text)]
        process = tail("alerts", *options, "--rewind", "5", "--explain")
        assert json.loads(process.stdout.readline())["alert"] == {"explained": {"n": 70}}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
        said = errors.splitlines()
        assert said[:2] == ["connecting", "open"]
        assert re.fullmatch(r"1 of the newest \d+ messages match", said[2])
        assert said[3:] == [
            "  explained.n: present in 2, matches in 1",
            "  alternative 1: matches in 0",
            "    explained.x: present in 0, matches in 0",
            "  alternative 2: matches in 1",
            "    explained.n: present in 2, matches in 1",
        ]

    def test_it_leaves_no_token_when_it_is_ended(self, server: Server, tail: Any) -> None:
        server.administer(
            "create_token('manage.py tail', expires_at=timezone.now() - timedelta(1))"
        )
        process = tail("events")
        while process.stderr.readline() != "open\n":
            assert process.poll() is None
        process.terminate()
        _, errors = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, errors) == (143, "")
        count = "result = AccessToken.objects.filter(name='manage.py tail').count()"
        assert server.administer(count) == 0

    def test_options(self, server: Server, tail: Any) -> None:
        arguments = ["--conflate", "k", "--max-rate", "20", "--batch-ms", "10", "--fields", "k,n.m"]
        server.publish("alerts", *({"k": n % 2, "n": {"m": n, "x": 0}} for n in range(10)))
        process = tail("alerts", *arguments, "--on-overflow", "drop", "--rewind", "10")
        for n in (8, 9):
            assert json.loads(process.stdout.readline())["alert"] == {"k": n % 2, "n": {"m": n}}

    def test_wrong_uses_are_one_line(self, server: Server, tail: Any) -> None:
        for arguments, text in (
            (("alerts", "--token", "wrong"), f"CommandError: {server.url}: Invalid credentials"),
            (("alerts", "--rewind", "5000"), "CommandError: "),
            (("alerts", "--filter", "x"), "CommandError: "),
            (("alerts", "--filter", 'a={"over": 1}'), "CommandError: filters: 'a': unknown oper"),
            (
                ("alerts", "--filter", 'a={"gt": 1}', "--filter", "a=1"),
                "CommandError: filters: 'a'",
            ),
            (("alerts", "--max-rate", "0"), "CommandError: "),
            (("alerts", "--fields", "a,,b"), "CommandError: "),
        ):
            process = tail(*arguments)
            _, errors = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 1
            assert errors.splitlines()[-1].startswith(text), errors
            assert "Traceback" not in errors

    def test_nobody_reads(self, server: Server, token: str, tail: Any) -> None:
        process = tail("alerts", "--rewind", "1", "--token", token)
        process.stdout.close()
        wait_until(lambda: bool(server.publish("alerts", {"n": 1})) and process.poll() is not None)
        assert "Traceback" not in process.stderr.read()
