"""A server, a publisher and clients that check what they get, while something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import redis

from realtime.cluster.embedded import find_binary, socket_path
from realtime.testing.proxy import Proxy
from tests.support import ROOT, Server, environment, free_port
from tests.system.faults.follower import Follower
from tests.system.faults.publisher import payload

# Seconds in which everything must be as before a fault.
RECOVERY = 30.0
# Messages between one fault and the next.
PAUSE = 20
# What the followers subscribe with: everything, half of it, and what comes once in a while.
FILTERS: tuple[dict[str, Any], ...] = ({}, {"odd": True}, {"hundredth": True})


class Confirmed(NamedTuple):
    """A message that the publisher knows to be in the log."""

    number: int
    epoch: str
    offset: int


@dataclass
class Scenario:
    """A fault, and what it needs."""

    title: str
    fault: Callable[[Scene], Awaitable[None]]
    # Settings of the server and the publisher.
    variables: dict[str, str] = field(default_factory=dict)
    # Settings of the server alone.
    server_variables: dict[str, str] = field(default_factory=dict)
    # Bytes in each message beside its number.
    padding: int = 0
    # Whether there is a proxy before the Valkey, one of its own on TCP, or before the server.
    proxies_valkey: bool = False
    proxies_server: bool = False
    # Whether the log itself is lost, so that clients are told.
    loses_the_log: bool = False


@dataclass
class Outcome:
    """What became of the messages. Times in seconds."""

    title: str
    faults: int
    published: int
    refused: int
    delivered: int
    lost: int
    repeated: int
    # How often clients were told that something is missing, and how many messages were.
    told: int
    excused: int
    longest_gap: float
    reconnects: int
    complaints: list[str]


class Scene:
    """Everything that takes part in a scenario; faults are done to its parts."""

    def __init__(self, scenario: Scenario, data_dir: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.data_dir = data_dir
        self.confirmed: list[Confirmed] = []
        self.refused: list[float] = []
        self.followers: list[Follower] = []
        self.proxy: Proxy
        self.server: Server
        self.token = ""
        self._scenario = scenario
        self._variables = dict(scenario.variables)
        self._port = free_port()
        self._ending = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._begin(stack)
            self._ending = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._ending.aclose()

    async def _begin(self, stack: AsyncExitStack) -> None:
        if self._scenario.proxies_valkey:
            port = stack.enter_context(running_valkey(self.data_dir))
            self.proxy = await stack.enter_async_context(Proxy(port))
            self._variables["REDIS_URL"] = f"redis://127.0.0.1:{self.proxy.port}/0"
        if self._scenario.proxies_server:
            self.proxy = await stack.enter_async_context(Proxy(self._port))
        await self.start_server()
        stack.push_async_callback(self.stop_server)
        self.token = await asyncio.to_thread(self.server.token)
        port = self.proxy.port if self._scenario.proxies_server else self._port
        self.followers = [Follower(lambda: port, self.token, filters) for filters in FILTERS]
        for follower in self.followers:
            await stack.enter_async_context(follower.following())
            await wait_for(follower.has_begun.wait())
        await stack.enter_async_context(self._publishing())

    async def start_server(self) -> None:
        """Start the server, on the port and the data directory of the one before."""
        variables = {"rate_limit_per_minute": "100000", "drain_timeout": "3"}
        variables |= self._variables | self._scenario.server_variables
        self.server = Server(self.data_dir, "--port", str(self._port), **variables)
        self.server.may_fail = True
        await asyncio.to_thread(self.server.__enter__)

    async def stop_server(self) -> None:
        """End the server, if it has not ended."""
        await asyncio.to_thread(self.server.__exit__)

    @contextlib.asynccontextmanager
    async def _publishing(self) -> AsyncIterator[None]:
        command = ["-m", "tests.system.faults.publisher", "--padding", str(self._scenario.padding)]
        variables = self._variables | {"DJANGO_SETTINGS_MODULE": "streaming_site.settings"}
        self._publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env=environment(self.data_dir, **variables),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read_publisher())
        try:
            await self.pass_messages()
            yield
        finally:
            if self._publisher.returncode is None:
                self._publisher.kill()
            await self._publisher.wait()
            await self._reading

    async def _read_publisher(self) -> None:
        assert self._publisher.stdout is not None
        async for line in self._publisher.stdout:
            match line.decode().split():
                case ["refused", seconds]:
                    self.refused.append(float(seconds))
                case [number, epoch, offset]:
                    self.confirmed.append(Confirmed(int(number), epoch, int(offset)))

    async def finish(self) -> None:
        """End the publisher; return when every client has the last message it is to get."""
        assert self._publisher.stdin is not None
        self._publisher.stdin.close()
        await wait_for(self._publisher.wait())
        await self._reading
        assert self._publisher.returncode == 0
        await self.followers_have_all()

    async def pass_messages(self, count: int = PAUSE) -> None:
        """Return when so many more messages are published, and the clients have all there are."""
        wanted = len(self.confirmed) + count
        await until(lambda: len(self.confirmed) >= wanted)
        await self.followers_have_all()

    async def followers_have_all(self) -> None:
        """Return when every client has what was confirmed by now."""
        newest = self.confirmed[-1].number
        for follower in self.followers:
            due = [n for n in range(max(1, newest - 100), newest + 1) if _matches(follower, n)]
            if due:
                await until(partial(_has, follower, due[-1]))

    async def pass_messages_to(self, follower: Follower, count: int = PAUSE) -> None:
        """Return when one client has got so many more messages, whatever the others have."""
        wanted = len(follower.numbers) + count
        await until(lambda: len(follower.numbers) >= wanted)

    async def moment(self, longest: float = 0.2) -> None:
        """Let some time pass, so that the fault comes at any point of what goes on."""
        await asyncio.sleep(self.random.uniform(0, longest))

    def valkey(self) -> psutil.Process:
        """Return the embedded Valkey's process."""
        [process] = self.server.valkey()
        return process

    def ask_valkey(self) -> redis.Redis:
        """Return a client of the embedded Valkey."""
        return redis.Redis(unix_socket_path=str(socket_path(self.data_dir)))

    def outcome(self, faults: int) -> Outcome:
        """Compare what was confirmed with what has arrived."""
        lost = repeated = delivered = 0
        complaints: list[str] = []
        for follower in self.followers:
            seen = set(follower.numbers)
            wanted = {c.number for c in self.confirmed if _matches(follower, c.number)}
            lost += len(wanted - seen - follower.excused)
            complaints += [f"{number} was never published" for number in seen - wanted]
            complaints += follower.complaints
            repeated += follower.repeated
            delivered += len(follower.numbers)
        return Outcome(
            title=self._scenario.title,
            faults=faults,
            published=len(self.confirmed),
            refused=len(self.refused),
            delivered=delivered,
            lost=lost,
            repeated=repeated,
            told=sum(follower.told for follower in self.followers),
            excused=sum(len(follower.excused) for follower in self.followers),
            longest_gap=round(self.followers[0].longest_gap, 2),
            reconnects=sum(sum(follower.closed.values()) for follower in self.followers),
            complaints=complaints,
        )


async def play(scenario: Scenario, data_dir: Path, rounds: int, seed: int = 1) -> Outcome:
    """Inject a fault so many times, wait each time until all is well, and say what was lost."""
    async with Scene(scenario, data_dir, seed) as scene:
        for _ in range(rounds):
            await scene.moment()
            await scenario.fault(scene)
            await scene.pass_messages()
        await scene.finish()
        return scene.outcome(rounds)


def _has(follower: Follower, number: int) -> bool:
    return bool(follower.numbers) and follower.numbers[-1] >= number


def _matches(follower: Follower, number: int) -> bool:
    return follower.matches(payload(number))


@contextlib.contextmanager
def running_valkey(directory: Path) -> Iterator[int]:
    """Run a Valkey on a TCP port, which is returned, and with an append-only file."""
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "dir": str(directory), "save": ""}
    options |= {"appendonly": "yes", "logfile": str(directory / "tcp.log")}
    command = [part for name, value in options.items() for part in (f"--{name}", value)]
    with subprocess.Popen([find_binary(), *command], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port) as client:
                while not is_answering(client):
                    assert process.poll() is None
            yield port
        finally:
            process.send_signal(signal.SIGKILL)


def is_answering(client: redis.Redis) -> bool:
    """Tell whether a server takes commands."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def is_listening(port: int) -> bool:
    """Tell whether someone listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(condition: Callable[[], bool], timeout: float = RECOVERY) -> None:
    """Return when *condition* holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def wait_for(what: Awaitable[object], timeout: float = RECOVERY) -> None:
    """Return when *what* is done, which must be in time."""
    async with asyncio.timeout(timeout):
        await what
