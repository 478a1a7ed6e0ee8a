"""What a subscription receives before it is live, where chance rarely leads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.test import override_settings

from realtime.filters import EVERYTHING
from realtime.log.contract import Append, Batch, pack
from realtime.protocol import Position
from realtime.protocol.subscribe import StartFrom, SubscribeRequest
from realtime.sessions.node import Node
from tests.support.delivery import KIND, FickleLog, Session
from tests.support.layers import IN_MEMORY, Configure, until


class Scene:
    """A node and its log. What is appended is never announced: the node learns of it late."""

    def __init__(self) -> None:
        self.log = FickleLog()
        self.node = Node()

    async def append(self, *texts: str) -> Position:
        """Append messages; return the last one's position."""
        bodies = [json.dumps({"text": text}).encode() for text in texts]
        first = (await self.log.aappend(Append(KIND, [Batch(bodies, pack(bodies))]))).first
        return first._replace(offset=first.offset + len(bodies) - 1)

    async def subscribe(self, start_from: StartFrom) -> Session:
        """Subscribe as a client that has read nothing."""
        session = Session(self.node, self.log, start_from)
        await session.subscribe({})
        return session


def read_all(session: Session) -> list[dict[str, Any]]:
    """Read all that waits for a client."""
    waiting, session.unread = session.unread, []
    return [json.loads(text) for text, _ in waiting]


def offsets(messages: list[dict[str, Any]]) -> list[int]:
    """Return the offsets of the data messages."""
    return [m["metadata"]["offset"] for m in messages if m["type"] == "data"]


@pytest.fixture
async def scene(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """A node whose clients' buffers are small."""
    configure(max_buffered_bytes="4096")
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        scene = Scene()
        monkeypatch.setattr("realtime.delivery.broker.get_log", lambda: scene.log)
        yield scene
        await scene.node.close()


async def test_a_client_that_is_ahead_of_this_process_misses_nothing(scene: Scene) -> None:
    await scene.append("1")
    first = await scene.subscribe(StartFrom())  # now the process has come to 1
    head = await scene.append("2", "3")
    second = await scene.subscribe(StartFrom(head))
    (subscribed,) = read_all(second)
    assert subscribed["data"] == {
        "epoch": head.epoch,
        "offset": 3,
        "recovered": True,
        "replayed": 0,
    }
    assert offsets(read_all(first)) == [2, 3]


async def test_the_newest_are_those_of_the_log(scene: Scene) -> None:
    """Who has published reads it with ``rewind``, though this process has yet to receive it."""
    await scene.append("1")
    first = await scene.subscribe(StartFrom())
    await scene.append("2", "3")
    assert offsets(read_all(await scene.subscribe(StartFrom(rewind=2)))) == [2, 3]
    assert offsets(read_all(first)) == [2, 3]


async def test_without_the_log_the_newest_are_those_that_have_come(scene: Scene) -> None:
    await scene.append("1", "2")
    await scene.subscribe(StartFrom())
    scene.log.is_away = True
    assert offsets(read_all(await scene.subscribe(StartFrom(rewind=1)))) == [2]


async def test_a_log_that_is_lost_while_it_is_replayed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in (
        "delivery.feed.RECENT_MESSAGES",
        "hub.ordering.RECENT_MESSAGES",
        "log.contract.READ_ENTRIES",
    ):
        monkeypatch.setattr(f"realtime.{bound}", 2)  # little is in memory
    monkeypatch.setattr("realtime.delivery.replay.KEPT_BYTES", 1000)
    texts = ["x" * 1000] * 30
    start = (await scene.append("1"))._replace(offset=0)
    await scene.append(*texts)
    session = await scene.subscribe(StartFrom(start))
    await until(lambda: session.buffered_bytes() > 1000)  # it waits for the client
    scene.log.flush()
    new = await scene.append("a", "b")
    messages: list[dict[str, Any]] = []

    def has_come_to_the_end() -> bool:
        messages.extend(read_all(session))
        return bool(messages) and messages[-1].get("metadata") == new._asdict()

    await until(has_come_to_the_end)
    old = [m for m in messages if m["type"] == "data" and m["metadata"]["epoch"] == start.epoch]
    (told,) = (n for n, m in enumerate(messages) if m["type"] == "error")
    assert offsets(old) == list(range(1, len(old) + 1)) and 0 < len(old) < 31
    assert messages[told]["data"]["details"] == {
        "from": len(old) + 1,
        "to": None,
        "reason": "epoch_changed",
    }
    assert offsets(messages[told:]) == [1, 2]
    assert session.subscription is not None
    assert scene.node.subscriptions.position(session.subscription) == new


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize(
    ("read", "recovered", "replayed"),
    [(1, True, [2, 3, 4, 5]), (3, True, [4, 5]), (4, False, [4, 5]), (9, False, [4, 5])],
)
async def test_after_a_failover_who_has_read_what_is_lost_is_told(
    scene: Scene, knows: bool, read: int, recovered: bool, replayed: list[int]
) -> None:
    """Of messages 1 to 9 the last six were lost; 4 and 5 are others now."""
    last = await scene.append(*"123456789")
    if knows:  # this process has delivered the lost ones
        await scene.subscribe(StartFrom())
    scene.log.fail_over(lost=6)
    await scene.append("another 4", "another 5")
    if knows:  # and has noticed
        await scene.subscribe(StartFrom(rewind=1))
    session = await scene.subscribe(StartFrom(last._replace(offset=read)))
    answer, *messages = read_all(session)
    assert answer["data"]["recovered"] is recovered
    assert offsets(messages) == replayed


async def test_who_reads_nothing_during_a_replay_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.delivery.replay.PATIENCE", 0.1)
    start = (await scene.append(*["x" * 1000] * 30))._replace(offset=0)
    session = await scene.subscribe(StartFrom(start))
    await until(lambda: session.ended)
    assert session.buffered_bytes() <= 4096


@pytest.mark.parametrize("is_busy", [False, True])
async def test_who_has_left_before_it_is_live_is_sent_nothing(scene: Scene, is_busy: bool) -> None:
    start = await scene.append("first")
    await scene.append("second")
    session = Session(scene.node, scene.log, StartFrom(start))
    subscriptions = scene.node.subscriptions
    request = SubscribeRequest(KIND, EVERYTHING, {}, None, StartFrom(start))
    replay = await subscriptions.subscribe(session, request, EVERYTHING, "id")
    assert replay.replayed == 1
    subscriptions.unsubscribe(replay.subscription)
    async with subscriptions.feed(KIND).lock if is_busy else contextlib.nullcontext():
        subscriptions.go_live(replay)
    assert not replay.subscription.active
    assert [task for task in asyncio.all_tasks() if "Subscriptions._run" in repr(task)] == []
    assert session.unread == []
