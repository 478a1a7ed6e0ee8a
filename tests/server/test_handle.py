"""A server as the user's document starts, asks and stops one: a handle on a process."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.test import override_settings
from websockets.asyncio.client import connect

from realtime import WebSocketServer, get_stats, get_streaming_config, get_websocket_server
from realtime.cluster.servers import layer_hosts
from realtime.config import WebSocketConfig, read_config
from realtime.server import handle as module
from realtime.server.handle import environment_of
from realtime.sessions.node import Node, get_node
from tests.support import ROOT, TIMEOUT, Client, environment, wait_until

pytestmark = pytest.mark.processes

# Starts a server of its own, says which process it is and where it listens, and does nothing more.
PROGRAM = """
import asyncio, sys
import django
django.setup()
from realtime import WebSocketServer
from realtime.config import WebSocketConfig

async def main():
    server = WebSocketServer(WebSocketConfig(host="127.0.0.1", port=0, require_auth=False))
    await server.start()
    print(server.url, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture(scope="module", autouse=True)
def own_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let this process and the servers that it starts share a data directory of their own."""
    data_dir = tmp_path_factory.mktemp("server")
    layer = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": layer_hosts(data_dir), "prefix": "realtime"},
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        override_settings(CHANNEL_LAYERS={"default": layer}, DATA_DIR=data_dir),
    ):
        patch.setenv("STREAMING_DATA_DIR", str(data_dir))
        yield data_dir


def config(**values: Any) -> WebSocketConfig:
    """Return a configuration for a free port, to which anyone may connect."""
    defaults: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "require_auth": False}
    return WebSocketConfig(**(defaults | {"drain_timeout": 2} | values))


@asynccontextmanager
async def serving(**values: Any) -> AsyncIterator[WebSocketServer]:
    """Run a server for the length of a test."""
    server = WebSocketServer(config(**values))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def page_of(server: WebSocketServer) -> AsyncIterator[Client]:
    """Connect to the address of the document, which has no path."""
    async with connect(server.url.replace("http", "ws", 1)) as connection:
        yield Client(connection)


def process_of(server: WebSocketServer) -> psutil.Process:
    """Return the serving process: this one's child with the server's port."""
    port = int(server.url.rpartition(":")[2])
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(c.laddr.port == port for c in child.net_connections("tcp")):
                return child
    raise AssertionError("no process listens there")


def is_listening(url: str) -> bool:
    """Tell whether anyone accepts connections at a server's address."""
    port = int(url.rpartition(":")[2])
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def test_the_documents_integration_works() -> None:
    server = WebSocketServer(config())
    await server.start()
    try:
        async with page_of(server) as page:
            await page.subscribe("events")
            await page.subscribe("metrics")
            await server.broadcast_event({"event_id": "evt_123"})
            assert await page.assert_data("events") == {"event_id": "evt_123"}
            await server.broadcast_metrics({"cpu": 0.5})
            assert await page.assert_data("metrics") == {"cpu": 0.5}
            stats = server.get_stats()
            assert stats["is_running"] is True
            assert stats["active_clients"] == stats["total_connections"] == 1
            assert stats["total_subscriptions"] == 2
            assert stats["messages_sent"] == 4
            assert stats["messages_received"] == 2
            assert stats["config"] == {
                "host": "127.0.0.1",
                "port": 0,
                "max_connections": 1000,
                "require_auth": False,
            }
            stopping = asyncio.create_task(server.stop())
            await page.assert_error("restarting")
            await page.assert_closed(1012, "server restarting")
            await stopping
    finally:
        await server.stop()
    assert server.get_stats()["is_running"] is False
    assert server.url == ""


async def test_every_type_has_its_broadcast_and_any_thread_may_ask() -> None:
    async with serving() as server, page_of(server) as page:
        for kind, broadcast in (
            ("events", server.broadcast_event),
            ("metrics", server.broadcast_metrics),
            ("alerts", server.broadcast_alert),
            ("predictions", server.broadcast_prediction),
            ("aggregations", server.broadcast_aggregation),
            ("system_status", server.broadcast_system_status),
        ):
            await page.subscribe(kind)
            await broadcast({"type": kind})
            assert await page.assert_data(kind) == {"type": kind}
        with ThreadPoolExecutor(8) as threads:  # threads may ask at once
            answers = list(threads.map(lambda _: server.get_stats(), range(40)))
        assert [answer["messages_published"]["events"] for answer in answers] == [1] * 40


async def test_it_starts_once_and_again_after_it_was_stopped() -> None:
    server = WebSocketServer(config())
    try:
        starting = asyncio.gather(server.start(), server.start())
        await server.start()
        assert is_listening(server.url)  # not before
        await starting
        process = process_of(server)
        await server.start()
        assert process_of(server) == process
        url = server.url
        await server.stop()
        assert not process.is_running() and not is_listening(url)
        await server.stop()
        await server.start()
        assert process_of(server) != process
    finally:
        await server.stop()


async def test_the_configuration_given_is_the_one_in_force() -> None:
    values = {"max_connections": 1, "max_subscriptions_per_client": 1, "rate_limit_per_minute": 3}
    async with serving(**values) as server:
        assert server.get_stats()["config"]["max_connections"] == 1
        async with page_of(server) as page:
            await page.subscribe("events")
            reply = await page.call({"type": "subscribe", "data": {"type": "alerts"}})
            assert reply["data"]["code"] == "too_many_subscriptions"
            async with page_of(server) as second:
                await second.assert_closed(1013, "server at capacity")
            assert (await page.call({"type": "ping"}))["type"] == "pong"
            assert (await page.call({"type": "ping"}))["data"]["code"] == "rate_limited"


async def test_a_server_that_was_killed_is_noticed_and_may_be_started_again() -> None:
    async with serving() as server:
        process_of(server).kill()
        wait_until(lambda: server.get_stats()["is_running"] is False)
        await server.start()
        assert server.get_stats()["is_running"] is True
        assert is_listening(server.url)


async def test_one_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().children()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = WebSocketServer(config(port=port))
        with pytest.raises(RuntimeError, match="did not start"):
            await server.start()
    errors = capfd.readouterr().err
    assert f"cannot listen on port {port}" in errors
    assert "Traceback" not in errors
    assert server.get_stats()["is_running"] is False
    assert psutil.Process().children() == before


def test_the_server_ends_with_the_handles_killed_process(own_directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(
            own_directory, DJANGO_SETTINGS_MODULE="streaming_site.settings", drain_timeout="1"
        ),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as handle:
        try:
            assert handle.stdout is not None
            url = handle.stdout.readline().strip()
            assert is_listening(url)
            below = psutil.Process(handle.pid).children(recursive=True)
            assert below
        finally:
            handle.kill()
            handle.wait(TIMEOUT)
    wait_until(lambda: not any(child.is_running() for child in below))
    assert not is_listening(url)


# The configuration's way into the process


@pytest.mark.parametrize(
    "given",
    [
        WebSocketConfig(),
        WebSocketConfig(
            host="::1",
            port=0,
            max_connections=7,
            ping_interval=3,
            ping_timeout=4,
            close_timeout=5,
            max_message_size=2048,
            compression=None,
            require_auth=False,
            auth_timeout_seconds=6,
            allowed_origins=["https://a.example.com", "https://*.example.org:8443", "null"],
            enable_rate_limiting=False,
            rate_limit_per_minute=8,
            max_subscriptions_per_client=9,
            max_buffered_bytes=8192,
            history_size=10,
            history_ttl=11,
            drain_timeout=0,
        ),
        WebSocketConfig(allowed_origins=[]),
    ],
)
def test_every_setting_reaches_the_process(
    given: WebSocketConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert read_config().websocket == given


# The process's one handle


@pytest.fixture
def fresh_singleton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the process's handle, and let the environment say a free port."""
    monkeypatch.setattr(module, "_server", None)
    for name, value in environment_of(config()).items():
        monkeypatch.setenv(name, value)
    get_streaming_config.cache_clear()
    yield
    monkeypatch.undo()
    get_streaming_config.cache_clear()


async def test_the_process_has_one_handle(fresh_singleton: None) -> None:
    server = await get_websocket_server()
    assert isinstance(server, WebSocketServer)
    assert await get_websocket_server() is server
    assert server.config == get_streaming_config().websocket
    assert get_stats()["is_running"] is False
    await server.start()
    try:
        async with page_of(server) as page:
            await page.subscribe("events")
            await (await get_websocket_server()).broadcast_event({"n": 1})
            assert await page.assert_data("events") == {"n": 1}
            assert get_stats()["active_clients"] == 1
            assert json.loads(json.dumps(get_stats()))["is_running"] is True
    finally:
        await server.stop()
    assert get_stats()["is_running"] is False


@pytest.mark.django_db(transaction=True)
async def test_in_a_serving_process_it_is_a_handle_on_that_process(fresh_singleton: None) -> None:
    node: Node = get_node()
    await node.start()
    try:
        server = WebSocketServer()
        await server.start()
        assert server.get_stats()["is_running"] is get_stats()["is_running"] is True
        assert server.url == ""
        await server.stop()
        assert server.get_stats()["is_running"] is True
    finally:
        await node.close()
    assert get_stats()["is_running"] is False
