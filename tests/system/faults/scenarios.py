"""What breaks: each function does it once and returns when the cause is gone."""

from __future__ import annotations

import asyncio
import signal

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support import TIMEOUT, Client
from tests.system.faults.follower import Follower
from tests.system.faults.scene import Scenario, Scene, until

SLOW_CONSUMER = 1013
FROZEN_SECONDS = 8.0


async def kill_server(scene: Scene) -> None:
    """SIGKILL; another process takes its place."""
    scene.server.process.kill()
    await scene.stop_server()
    await scene.start_server()


async def drain_server(scene: Scene) -> None:
    """SIGTERM while clients come and go; another process takes its place."""
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(_come_and_go(scene)) for _ in range(4)]
        await scene.moment()
        scene.server.process.terminate()
        await asyncio.to_thread(scene.server.process.wait, TIMEOUT)
        assert scene.server.process.returncode == 0
        await scene.stop_server()
        await scene.start_server()
        for visitor in crowd:
            visitor.cancel()


async def _come_and_go(scene: Scene) -> None:
    address = f"ws://127.0.0.1:{scene.server.port}/ws/"
    while True:
        try:
            async with asyncio.timeout(TIMEOUT), connect(address, close_timeout=1) as socket:
                client = Client(socket)
                await client.send({"type": "auth", "data": {"token": scene.token}})
                await client.send({"type": "subscribe", "data": {"type": "metrics"}})
                await client.receive()
        except (OSError, ConnectionClosed, InvalidHandshake):
            await asyncio.sleep(0.01)


async def kill_valkey(scene: Scene) -> None:
    """SIGKILL of the embedded Valkey; its server starts it again."""
    await _end_valkey(scene, signal.SIGKILL)


async def restart_valkey(scene: Scene) -> None:
    """SIGTERM of the embedded Valkey; its server starts it again."""
    await _end_valkey(scene, signal.SIGTERM)


async def _end_valkey(scene: Scene, number: signal.Signals) -> None:
    before = scene.valkey()
    before.send_signal(number)
    await until(
        lambda: [process.pid for process in scene.server.valkey()] not in ([], [before.pid])
    )


async def freeze_valkey(scene: Scene) -> None:
    """SIGSTOP of the embedded Valkey, for longer than anybody waits for an answer."""
    valkey = scene.valkey()
    valkey.suspend()
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        valkey.resume()


async def disturb_proxy(scene: Scene) -> None:
    """Delay, stall, cut in the middle of a frame, and reset."""
    proxy = scene.proxy
    proxy.delay = scene.random.uniform(0.01, 0.1)
    await scene.moment(0.5)
    proxy.delay = 0
    for disturb in scene.random.sample([_stall, _cut, _reset], 3):
        await disturb(scene)
        await scene.pass_messages()


async def _stall(scene: Scene) -> None:
    # For less than anybody waits, or for longer.
    await scene.proxy.stall(scene.random.choice([1.0, 5.0]))


async def _cut(scene: Scene) -> None:
    await scene.proxy.cut()


async def _reset(scene: Scene) -> None:
    scene.proxy.reset()


async def lose_in_the_layer(scene: Scene) -> None:
    """Let messages pass: the layer drops, repeats and reorders all the time."""
    await scene.pass_messages(100)


async def stop_reading(scene: Scene) -> None:
    """Let a client read nothing until the server has closed its connection."""
    slow = scene.followers[0]
    closed = slow.closed[SLOW_CONSUMER]
    slow.reading.clear()
    try:
        wanted = len(scene.confirmed) + 400
        await until(lambda: len(scene.confirmed) >= wanted)
    finally:
        slow.reading.set()
    await until(lambda: slow.closed[SLOW_CONSUMER] > closed)


async def lose_the_log(scene: Scene) -> None:
    """FLUSHALL, with clients that are connected and one that is not."""
    present, away, _ = scene.followers
    told = {id(follower): follower.told for follower in (present, away)}

    def is_told(follower: Follower) -> bool:
        return follower.told > told[id(follower)]

    async with away.away():
        await scene.pass_messages_to(present)
        with scene.ask_valkey() as valkey:
            valkey.flushall()
    await until(lambda: is_told(present) and is_told(away))


SCENARIOS = (
    Scenario("SIGKILL of the server", kill_server),
    Scenario("SIGTERM of the server while clients connect", drain_server),
    Scenario("SIGKILL of Valkey", kill_valkey),
    Scenario("restart of Valkey", restart_valkey),
    Scenario("SIGSTOP of Valkey for 8 s", freeze_valkey),
    Scenario("proxy before Valkey", disturb_proxy, proxies_valkey=True),
    Scenario("proxy before the server", disturb_proxy, proxies_server=True),
    Scenario(
        "a layer that drops, repeats and reorders",
        lose_in_the_layer,
        server_variables={
            "DJANGO_SETTINGS_MODULE": "tests.system.faults.settings",
            "LOSSY_SEED": "1",
        },
    ),
    Scenario(
        "a client that stops reading",
        stop_reading,
        variables={"history_size": "2000"},
        server_variables={"max_buffered_bytes": "65536"},
        padding=50_000,
    ),
    Scenario("FLUSHALL", lose_the_log, loses_the_log=True),
)
