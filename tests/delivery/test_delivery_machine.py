"""Delivery, whatever comes between: a client gets what matches, once and in order, or is told.

Random sequences of what may go wrong, on two nodes that share a log and a channel layer. Nothing
here waits: time passes when nobody has anything to do until later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any
from unittest import mock

import pytest
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.test import override_settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from realtime.config import WEBSOCKET_PREFIX, get_streaming_config
from realtime.delivery.dispatcher import Dispatcher
from realtime.delivery.feed import Feed
from realtime.delivery.receiver import Receiver
from realtime.delivery.replay import Replay
from realtime.log.contract import MemoryLog
from realtime.protocol import Position
from realtime.protocol.subscribe import StartFrom
from realtime.publishing import apublish
from realtime.sessions.connections import Drain
from realtime.sessions.node import Node, Reporter
from realtime.sessions.rights import Authority
from realtime.sessions.subscriber import Subscriber
from realtime.tasks import TimeSlice
from realtime.testing import FakeClock
from tests.support.delivery import KIND, Account, FickleLog, Published, Session
from tests.support.layers import IN_MEMORY

# Small enough that a few messages pass every bound.
BOUNDS = {
    "realtime.log.contract.READ_ENTRIES": 4,
    "realtime.delivery.replay.READ_ENTRIES": 4,
    "realtime.delivery.feed.RECENT_MESSAGES": 6,
    "realtime.hub.ordering.RECENT_MESSAGES": 6,
    "realtime.delivery.dispatcher.BYTES_AT_ONCE": 600,
    # Between any two writes others run.
    "realtime.delivery.dispatcher.WRITES_BETWEEN_LOOKS": 1,
    "realtime.delivery.dispatcher.WRITING_SECONDS": -1.0,
    "realtime.delivery.replay.KEPT_BYTES": 1000,
    "realtime.delivery.replay.PATIENCE": 2.0,
}
VARIABLES = {"history_size": "15", "history_ttl": "20", "max_buffered_bytes": "4096"}
# In their modules the time is asked.
CLOCKED: list[Any] = [
    MemoryLog,
    Receiver,
    Feed,
    Dispatcher,
    Replay,
    TimeSlice,
    Authority,
    Drain,
    Reporter,
    Subscriber,
]
# Seconds after which everyone who reads must have everything: a look at the log, and a retry.
SETTLED_AFTER = 3.0


# Of a message on its way to a node.
FATES = ["brought", "brought", "brought", "twice", "late", "dropped"]


class Errors(logging.Handler):
    """Keeps what the code under test logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(self.format(record))


class DeliveryMachine(RuleBasedStateMachine):
    """Messages are published, dropped, repeated and reordered; clients come, lag, go and resume."""

    def __init__(self) -> None:
        super().__init__()
        clock = FakeClock()
        self.loop = clock.new_loop()
        self.log = FickleLog()
        self.errors = Errors()
        self.stack = ExitStack()
        self._patch(clock)
        self.layer: Any = get_channel_layer()
        self.layer.group_send = self._group_send
        # Channel and message: what the layer has taken and not brought yet.
        self.under_way: list[tuple[str, dict[str, Any]]] = []
        self.nodes = [Node(), Node()]
        self.published = Published()
        self.count = 0
        self.accounts = [Account(self.published, wanted) for wanted in (None, [1], [1, 2])]
        self.sessions: list[Session | None] = [None, None, None]

    def _patch(self, clock: FakeClock) -> None:
        variables = {WEBSOCKET_PREFIX + name.upper(): VARIABLES[name] for name in VARIABLES}
        enter = self.stack.enter_context
        self.stack.callback(get_streaming_config.cache_clear)
        enter(mock.patch.dict(os.environ, variables))
        get_streaming_config.cache_clear()
        enter(override_settings(CHANNEL_LAYERS=IN_MEMORY))
        enter(mock.patch("realtime.sessions.node.Database"))
        for module in ("realtime.delivery.broker", "realtime.publishing.publication"):
            enter(mock.patch(f"{module}.get_log", lambda: self.log))
        for module in {clocked.__module__ for clocked in CLOCKED}:
            enter(mock.patch(f"{module}.time", clock))
        for name, value in BOUNDS.items():
            enter(mock.patch(name, value))
        logger = logging.getLogger("realtime")
        logger.addHandler(self.errors)
        self.stack.callback(logger.removeHandler, self.errors)
        enter(mock.patch.object(logger, "propagate", False))
        self.loop.set_exception_handler(lambda _, context: self.errors.texts.append(str(context)))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the loop run until *work* is done."""
        return self.loop.run_until_complete(work)

    async def _group_send(self, group: str, message: dict[str, Any]) -> None:
        """Take a message for each member; what a node asks itself comes at once."""
        for channel in list(self.layer.groups.get(group, ())):
            if message["type"] == "stream.probe":
                await self.layer.send(channel, message)
            else:
                self.under_way.append((channel, message))

    # What is published, and what becomes of it

    @rule(
        keys=st.lists(st.integers(0, 2), min_size=1, max_size=8),
        times=st.sampled_from([1, 1, 1, 3]),
        fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=5),
    )
    def publish(self, keys: list[int], times: int, fates: list[str]) -> None:
        """Messages are published, and have various fates on their ways to the nodes."""
        upcoming = cycle(fates)
        for key in keys * times:
            self.count += 1
            self.run(self._publish({"n": self.count, "k": key, "text": "x" * 100}, upcoming))

    async def _publish(self, payload: dict[str, Any], fates: Iterator[str]) -> None:
        before = self.under_way
        self.under_way = []
        position = await apublish(KIND, payload)
        assert position is not None
        self.published[position.epoch].append(payload)
        assert position.offset == len(self.published[position.epoch])
        new, self.under_way = self.under_way, before
        for way, fate in zip(new, fates, strict=False):
            await self._bring([way] * {"brought": 1, "twice": 2}.get(fate, 0))
            if fate == "late":
                self.under_way.append(way)

    @precondition(lambda self: self.under_way)
    @rule(picks=st.lists(st.integers(0, 1000), min_size=1, max_size=10), again=st.booleans())
    def bring(self, picks: list[int], again: bool) -> None:
        """The layer brings messages, out of turn perhaps, and perhaps not for the last time."""
        chosen = {pick % len(self.under_way): None for pick in picks}
        self.run(self._bring([self.under_way[n] for n in chosen]))
        if not again:
            self.under_way = [way for n, way in enumerate(self.under_way) if n not in chosen]

    async def _bring(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        for channel, message in messages:
            if any(channel in members for members in self.layer.groups.values()):
                with contextlib.suppress(ChannelFull):  # dropped, as the layer's group_send does
                    await self.layer.send(channel, message)

    # Clients

    @initialize(nodes=st.lists(st.integers(0, 1), max_size=3))
    def begin(self, nodes: list[int]) -> None:
        """Some clients are there from the beginning."""
        for client, node in enumerate(nodes):
            self._connect(client, node, StartFrom())

    @precondition(lambda self: len(self._connected()) < 3)
    @rule(
        which=st.integers(0, 2),
        node=st.integers(0, 1),
        resumes=st.sampled_from([True, True, False]),
        ahead=st.sampled_from([0, 0, 0, 2, 10]),
        rewind=st.sampled_from([0, 0, 0, 1, 3, 20]),
        drops=st.booleans(),
    )
    def connect(
        self, which: int, node: int, resumes: bool, ahead: int, rewind: int, drops: bool = False
    ) -> None:
        """A client comes, or comes back to this node or to the other."""
        idle = [client for client in range(3) if client not in self._connected()]
        client = idle[which % len(idle)]
        resume = self.accounts[client].position() if resumes else None
        if resume is not None:
            resume = resume._replace(offset=resume.offset + ahead)
        self._connect(client, node, StartFrom(resume, rewind), drops)

    def _connect(self, client: int, node: int, start_from: StartFrom, drops: bool = False) -> None:
        session = self.sessions[client] = Session(self.nodes[node], self.log, start_from, drops)
        wanted = self.accounts[client].wanted
        self.run(self._begin(session.subscribe({} if wanted is None else {"k": wanted})))

    async def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.nodes[0].spawn(work)
        await asyncio.sleep(0)

    def _connected(self) -> dict[int, Session]:
        sessions = enumerate(self.sessions)
        return {n: session for n, session in sessions if session is not None and not session.ended}

    def _choose(self, which: int) -> tuple[Session, Account]:
        client, session = list(self._connected().items())[which % len(self._connected())]
        return session, self.accounts[client]

    @precondition(lambda self: self._connected())
    @rule(which=st.integers(0, 2), most=st.sampled_from([1, 3, 1000, 1000]), asks=st.booleans())
    def read(self, which: int, most: int, asks: bool) -> None:
        """A client reads some of what waits for it, and may ask how far it is."""
        session, account = self._choose(which)
        self._read(session, account, most)
        if asks:
            self.run(self._call(session.pong))

    def _read(self, session: Session, account: Account, most: int = 1000) -> None:
        read, session.unread = session.unread[:most], session.unread[most:]
        for text, state in read:
            account.read(text, state, session.start_from, session.asked_at)

    @precondition(lambda self: self._connected())
    @rule(
        which=st.integers(0, 2),
        reads=st.sampled_from([0, 1, 1000, 1000]),
        missed=st.lists(st.integers(0, 2), max_size=6),
        node=st.none() | st.integers(0, 1),
    )
    def disconnect(self, which: int, reads: int, missed: list[int], node: int | None) -> None:
        """A client goes, and what it has not read is lost; it may come back and resume."""
        session, account = self._choose(which)
        self._read(session, account, reads)
        self.run(self._call(session.end))
        if missed:
            self.publish(missed, 3, ["brought"])
        if node is not None:
            self._connect(self.accounts.index(account), node, StartFrom(account.position()))

    @precondition(lambda self: self._connected())
    @rule(which=st.integers(0, 2), wanted=st.sampled_from([None, [0], [1], [1, 2], [0, 2]]))
    def change_filter(self, which: int, wanted: list[int] | None) -> None:
        """A client gets other rights, whatever is being written or waits for it."""
        session, _ = self._choose(which)
        self.run(self._call(lambda: session.change_filter(wanted, self.count)))

    async def _call(self, function: Callable[[], None]) -> None:
        function()

    # What time and others do

    @rule(seconds=st.sampled_from([0, 0, 0.01, 0.05, 0.3, 1.5, 3, 12]), turns=st.integers(1, 8))
    def wait(self, seconds: float, turns: int) -> None:
        """Time passes; what is old is retained no more."""
        for _ in range(turns):
            self.run(asyncio.sleep(seconds / turns))

    @rule(event=st.sampled_from(["slow", "slow", "away", "back", "flushed", "all well"]))
    def change_log(self, event: str) -> None:
        """The log answers late or not at all or again, or loses everything; or all goes well."""
        if event == "flushed":
            self.log.flush()
        elif event == "all well":
            self.settle()
        else:
            self.log.is_away = event == "away"
            self.log.delay = 0.02 if event == "slow" else 0.0

    @rule(lost=st.sampled_from([0, 0, 1, 3, 20]))
    def fail_over(self, lost: int) -> None:
        """A replica takes over, which lacks the newest messages perhaps."""
        before = self.log.state()
        # A replica that did not know of the failover before would make the log another one.
        begun = max([before.oldest - 1, *(end.offset for end in before.earlier)])
        self.log.fail_over(min(lost, before.head - begun))
        self.published.fail_over(before, self.log.state())

    # What must hold

    def settle(self) -> None:
        """When all answers and everyone reads, everyone has everything."""
        self.log.is_away, self.log.delay = False, 0.0
        self.run(self._settle())

    async def _settle(self) -> None:
        for _ in range(int(SETTLED_AFTER / 0.1)):
            self._read_all()
            await asyncio.sleep(0.1)
        newest = Position(self.log.state().epoch, self.log.state().head)
        for session in self._connected().values():
            assert session.subscription is not None and session.subscription.active
            assert session.node.subscriptions.position(session.subscription) == newest
            session.pong()
        self._read_all()

    def _read_all(self) -> None:
        for client, session in self._connected().items():
            self._read(session, self.accounts[client])

    def teardown(self) -> None:
        """All end well, and nothing is left."""
        try:
            if sys.exc_info()[0] is not None:
                return  # a rule has failed
            self.settle()
            self.run(self._close())
            assert not self.errors.texts, self.errors.texts
        finally:
            self.run(self._cancel())
            self.loop.close()
            self.stack.close()

    async def _close(self) -> None:
        for session in self._connected().values():
            session.end()
        await asyncio.sleep(SETTLED_AFTER)
        assert not any(self.layer.groups.values()), "a group has members and no subscribers"
        for node in self.nodes:
            await node.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def _cancel(self) -> None:
        """After a failure, end what is left."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("event", ["flushed", "much came"])
def test_who_comes_while_a_look_of_those_before_is_under_way(event: str) -> None:
    """All have left meanwhile, and the type's group was left with them: the look is not his."""
    machine = DeliveryMachine()
    try:
        machine.begin([0, 0])
        machine.change_log("slow")
        for seconds in (0.05, 1.5, 1.5):
            machine.wait(seconds, 1)
        # One goes, the other is cut since it does not read.
        if event == "flushed":
            machine.disconnect(which=1, reads=0, missed=[0] * 5, node=None)
            machine.change_log("flushed")
        else:
            machine.disconnect(which=1, reads=0, missed=[0] * 3, node=None)
            machine.publish([0] * 7, 3, ["brought"])
        machine.connect(which=1, node=0, resumes=True, ahead=0, rewind=0)
        machine.change_log("all well")
    finally:
        machine.teardown()


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(
    deadline=None,
    max_examples=250,
    stateful_step_count=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
