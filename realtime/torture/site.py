"""A site of real processes, and the faults that can be done to it: a method each."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from realtime.testing import LiveServer
from realtime.testing.proxy import Proxy
from realtime.testing.server import environment, free_port
from realtime.torture.actors import Consumer, Processor, Publisher
from realtime.torture.checks import Record
from realtime.torture.history import History
from realtime.torture.results import RULES, missing_results
from realtime.torture.steps import Step
from realtime.torture.store import Store

PUBLISHERS = ("a", "b")
# Seconds between two parts that one of them publishes.
INTERVAL = 0.02
DAY = 86_400
# Seconds until all is well after the last fault.
RECOVERY = 60.0
# Everything stays in the log, to be compared with it.
SETTINGS = {
    "history_size": "10000000",
    "rate_limit_per_minute": "1000000",
    "drain_timeout": "2",
}
# Clients: the type, what they must get, and what they ask for. The last one's rights change.
CONSUMERS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("events", {}, {}),
    ("events", {"publisher": "a"}, {"publisher": "a"}),
    ("events", {"rare": True}, {"rare": True}),
    ("aggregations", {}, {}),
    ("events", {"odd": True}, {}),
)
ADD_RULES = """
from realtime.models import AggregationRule
for rule in rules: AggregationRule.objects.create(**rule)
"""
LOG_KEYS = """
from realtime.log.redis import log_keys
result = {kind: log_keys(kind) for kind in kinds}
"""
SET_FILTERS = "result = AccessToken.objects.filter(name='narrowed').update(filters=filters)"


class Site:
    """Everything that runs. ``publisher`` is the module that publishes."""

    publisher = "realtime.torture.publisher"
    consumer = Consumer

    def __init__(self, data_dir: Path, settings: str, root: Path) -> None:
        self.store = Store(data_dir / "store")
        self.publishers: list[Publisher] = []
        self.processors: list[Processor] = []
        self.consumers: list[Consumer] = []
        self._data_dir = data_dir
        self._root = root
        self._settings = settings
        self._port = free_port()
        # Of clients.
        self._proxy = Proxy(self._port)
        self._server_lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run everything; return when consumers follow and publishers publish."""
        self._data_dir.mkdir(exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.store.running())
            self._variables = SETTINGS | {
                "DJANGO_SETTINGS_MODULE": self._settings,
                "REDIS_URL": self.store.url,
            }
            await stack.enter_async_context(self._proxy)
            await self._start_server()
            stack.push_async_callback(self._stop_server)
            self.store.watch(await self._administer(LOG_KEYS, kinds=["events", "aggregations"]))
            await self._administer(ADD_RULES, rules=RULES)
            await self._start_consumers(stack)
            variables = environment(self._data_dir, **self._variables)
            for number in range(2):
                log = self._data_dir / f"processor-{number}.log"
                command = ["manage.py", "run_aggregations"]
                processor = Processor(command, log, variables, self._root)
                self.processors.append(processor)
                stack.push_async_callback(processor.kill)
                await processor.start()
            for name in PUBLISHERS:
                log = self._data_dir / f"publisher-{name}.log"
                publisher = Publisher(name, self.publisher, INTERVAL, log, variables, self._root)
                self.publishers.append(publisher)
                stack.push_async_callback(publisher.kill)
                await publisher.start()
            async with asyncio.timeout(RECOVERY):
                while not all(each.confirmed for each in self.publishers):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            yield

    async def _start_consumers(self, stack: contextlib.AsyncExitStack) -> None:
        url = f"ws://127.0.0.1:{self._proxy.port}/ws/"
        for number, (kind, filters, asked) in enumerate(CONSUMERS):
            name = f"client {number}" if filters == asked else "narrowed"
            token = await asyncio.to_thread(self._server.new_token, name=name)
            record = Record(name, kind, filters)
            self.consumers.append(self.consumer(url, token, record, asked))
            stack.push_async_callback(self.consumers[-1].go)
            await self.consumers[-1].come()

    async def _start_server(self) -> None:
        arguments = ("--port", str(self._port), "--workers", "2")
        deadline = time.monotonic() + RECOVERY
        while True:
            options = self._variables
            self._server = LiveServer(self._data_dir, *arguments, root=self._root, **options)
            self._server.may_fail = True
            try:
                await asyncio.to_thread(self._server.__enter__)
                return
            except AssertionError:  # it does not start without its store: an init tries again
                if time.monotonic() > deadline:
                    raise

    async def _stop_server(self) -> None:
        await asyncio.to_thread(self._server.__exit__, None, None, None)

    async def _administer(self, statements: str, **values: Any) -> Any:
        return await asyncio.to_thread(self._server.administer, statements, **values)

    async def finish(self) -> dict[str, History]:
        """Return the histories when everybody has everything, or when it is too late for that."""
        for publisher in self.publishers:
            await publisher.finish()
        deadline = time.monotonic() + RECOVERY
        while True:
            histories = await self.store.read()
            is_over = time.monotonic() > deadline
            if is_over or (self._have_all(histories) and not list(missing_results(histories))):
                break
            await asyncio.sleep(0.2)
        for consumer in self.consumers:
            await consumer.go()
        return histories

    def _have_all(self, histories: dict[str, History]) -> bool:
        for consumer in self.consumers:
            position, history = consumer.position, histories[consumer.record.kind]
            head = history.chapters[-1].ends[-1] if history.chapters else position
            if position is None or head is None or position.epoch != head.epoch:
                return False
            if position.offset < head.offset:
                return False
        return True

    # Faults: publishers

    async def kill_publisher(self, step: Step) -> None:
        await _choose(self.publishers, step).restart()

    async def stop_publisher(self, step: Step) -> None:
        await _choose(self.publishers, step).stop(step.seconds)

    async def wrong_clock(self, step: Step) -> None:
        """Start a publisher or processor again with a clock that is wrong by up to a day."""
        program = _choose([*self.publishers, *self.processors], step)
        program.ahead = round(DAY * (step.seconds - 1.5) / 1.5)
        await program.restart()

    # Faults: the server

    async def kill_worker(self, step: Step) -> None:
        if workers := self._workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                _choose(workers, step).kill()

    async def stop_worker(self, step: Step) -> None:
        if workers := self._workers():
            worker = _choose(workers, step)
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.suspend()
                try:
                    await asyncio.sleep(step.seconds)
                finally:
                    worker.resume()

    async def kill_server(self, step: Step) -> None:
        async with self._server_lock:
            self._server.process.kill()
            await self._stop_server()
            await self._start_server()

    async def restart_server(self, step: Step) -> None:
        async with self._server_lock:
            await self._stop_server()
            await self._start_server()

    async def replace_workers(self, step: Step) -> None:
        self._server.process.send_signal(signal.SIGHUP)

    def _workers(self) -> list[psutil.Process]:
        workers = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._server.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "--connections-fd" in child.cmdline():
                        workers.append(child)
        return workers

    # Faults: processors

    async def kill_processor(self, step: Step) -> None:
        await _choose(self.processors, step).restart()

    async def stop_processor(self, step: Step) -> None:
        await _choose(self.processors, step).stop(step.seconds)

    # Faults: clients, and what they may

    async def cut_clients(self, step: Step) -> None:
        self._proxy.reset()

    async def leave(self, step: Step) -> None:
        await _choose(self.consumers, step).leave(step.seconds)

    async def narrow_rights(self, step: Step) -> None:
        """Edit the filters of a token; what always matches must come nevertheless."""
        async with self._server_lock:
            await self._administer(SET_FILTERS, filters={"odd": True} if step.who % 2 else {})

    # Faults: the store

    async def cut_store(self, step: Step) -> None:
        await self.store.cut()

    async def stop_store(self, step: Step) -> None:
        await self.store.stop(step.seconds)

    async def kill_store(self, step: Step) -> None:
        await self.store.kill()

    async def fail_over(self, step: Step) -> None:
        await self.store.fail_over()

    async def lose_tail(self, step: Step) -> None:
        await self.store.lose_tail(step.seconds / 3)

    async def empty_store(self, step: Step) -> None:
        await self.store.empty()

    async def move_store(self, step: Step) -> None:
        await self.store.move()

    async def swallow_store(self, step: Step) -> None:
        await self.store.swallow()


def _choose(actors: Sequence[Any], step: Step) -> Any:
    return actors[step.who % len(actors)]
