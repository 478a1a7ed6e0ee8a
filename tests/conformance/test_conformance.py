"""``python -m realtime.conformance`` against real servers, wrong ones, and none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import realtime.conformance.__main__ as command
from realtime.conformance.catalogue import CHECKS, NOT_CHECKED
from tests.support import ROOT, Server, free_port, running

Message = dict[str, Any]
Changing = Callable[[str | bytes], str | bytes]


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realtime.conformance", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def publish_command(server: Server) -> str:
    """Return the command that publishes to a server."""
    arguments = [f"STREAMING_DATA_DIR={server.data_dir}", sys.executable, "manage.py", "publish"]
    return shlex.join(["env", *arguments])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose limits can be met."""
    limits = {"rate_limit_per_minute": "300", "max_subscriptions_per_client": "50"}
    with running(tmp_path_factory.mktemp("usual"), **limits) as server:
        yield server


@pytest.mark.processes
def test_our_own_server_conforms(usual: Server) -> None:
    publish = publish_command(usual)
    token = usual.new_token()
    done = conformance(usual.url, "--token", token, "--publish", publish, "--slow", "--json")
    results = {result["check"]: result for result in json.loads(done.stdout)}
    assert done.returncode == 0, [r for r in results.values() if r["result"] == "differs"]
    skipped = {name: result["why"] for name, result in results.items() if result["result"] != "ok"}
    assert set(skipped) == {"error forbidden", "status 403"}

    narrow = usual.new_token(types=["metrics"])
    done = conformance(
        usual.url, "--token", narrow, "--only", "forbidden", "--only", "403", "--only", "metrics"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [
        "skipped  type metrics: it needs messages: give --publish",
        "ok       error forbidden",
        "ok       status 403",
    ]
    assert done.stderr == "2 as the protocol says, 0 differ, 1 skipped\n"


def change(kind: str, **changes: Any) -> Callable[[Message], Message]:
    """Return what changes messages of a type; ``None`` takes a field away."""

    def changed(message: Message) -> Message:
        if message["type"] != kind:
            return message
        result = message | changes
        return {name: value for name, value in result.items() if value is not None}

    return changed


def within(kind: str, **changes: Any) -> Callable[[Message], Message]:
    """Return what changes the data of messages of a type."""

    def changed(message: Message) -> Message:
        if message["type"] != kind:
            return message
        return message | {"data": message.get("data", {}) | changes}

    return changed


# What a server does wrong, and the check that says so.
WRONG: dict[str, tuple[Callable[[Message], Message], str, str]] = {
    "no timestamp": (change("pong", timestamp=None), "envelope timestamp", "expected a timestamp"),
    "seconds": (change("pong", timestamp="2026-01-01T00:00:00Z"), "envelope timestamp", "00Z"),
    "no metadata": (change("pong", metadata=None), "envelope metadata", "received None"),
    "another answer": (change("pong", type="PONG"), "envelope type", "expected 'pong'"),
    "a reason": (within("auth_failed", error="Expired"), "message auth", "Invalid credentials"),
    "too much": (within("auth_success", secret="x"), "message auth", "has ['secret']"),
    "no options": (within("subscribed", options=None), "option max_rate", "the options in force"),
    "all fields": (within("data", event={"m": 3}), "option fields", "the payload"),
    "no batches": (change("data_batch", type="data"), "option batch_ms", "expected 'data_batch'"),
    "recovered": (within("subscribed", recovered=True), "message subscribe.answer", "recovered"),
    "another key": (within("data", event=None), "type events", "expected"),
    "no position": (change("data", metadata={}), "type events", "lacks ['epoch', 'offset']"),
    "a text": (within("error", error="no"), "error unknown_type", "expected error"),
    "a code": (within("error", code="no"), "error invalid_message", "received 'no'"),
    "no bounds": (within("data", event={"sample": 4}), "operator gte", "what matches"),
    "no errors": (
        within("error", error="Invalid subscription: no"),
        "message subscribe.wrong_filters",
        "name the path",
    ),
    "all filters match": (
        within("data", event={"place": 0}),
        "message subscribe.filters",
        "what matches",
    ),
}


@asynccontextmanager
async def wrong_server(server: Server, changed: Callable[[Message], Message]) -> Any:
    """Serve what a real server says, changed."""

    async def pass_on(source: Connection, target: Connection, changed: Changing) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await source.recv()
                await target.send(changed(message))
        await target.close(source.close_code or 1000, source.close_reason or "")

    def change_text(text: str | bytes) -> str:
        return json.dumps(changed(json.loads(text)))

    async def handle(client: ServerConnection) -> None:
        async with connect(server.url, max_size=None) as upstream:
            await asyncio.gather(
                pass_on(client, upstream, lambda message: message),
                pass_on(upstream, client, change_text),
            )

    async with serve(handle, "127.0.0.1", 0, max_size=None) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws/"


@pytest.mark.parametrize("fault", WRONG)
async def test_what_a_server_does_wrong_is_named(server: Server, token: str, fault: str) -> None:
    changed, name, why = WRONG[fault]
    arguments = ["--token", token, "--publish", publish_command(server)]
    async with wrong_server(server, changed) as url:
        done = await asyncio.to_thread(conformance, url, *arguments, "--only", name)
    assert done.returncode == 1, done.stderr
    assert f"differs  {name}: " in done.stdout and why in done.stdout
    async with wrong_server(server, lambda message: message) as url:
        done = await asyncio.to_thread(conformance, url, *arguments, "--only", name)
    assert done.returncode == 0, done.stdout


async def test_a_server_that_says_nothing(server: Server) -> None:
    async def ignore(client: ServerConnection) -> None:
        async for _ in client:
            pass

    async with serve(ignore, "127.0.0.1", 0) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/"
        arguments = ["--only", "ping", "--timeout", "1"]
        done = await asyncio.to_thread(conformance, url, *arguments)
    assert done.returncode == 1
    assert "differs  message ping: the server did not answer in time" in done.stdout


def test_who_cannot_be_checked(server: Server) -> None:
    nobody = f"ws://127.0.0.1:{free_port()}/ws/"
    page = f"ws://127.0.0.1:{server.port}/nowhere/"
    for arguments, said in (
        ([nobody], "127.0.0.1"),
        ([page], "404"),
        (["not a url"], "not a url"),
        ([server.url, "--token", "rt_wrong"], "the token was not accepted"),
        ([], "the address of the server is missing"),
        ([server.url, "--only", "nothing of this name"], "no check has nothing of this name"),
    ):
        done = conformance(*arguments)
        assert done.returncode == 2, arguments
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_publish_command_that_fails(server: Server, token: str) -> None:
    done = conformance(server.url, "--token", token, "--publish", "false", "--only", "type events")
    assert "skipped  type events: the command of --publish failed" in done.stdout


# The tables of docs/protocol.md that are checked: a heading, and what their checks are called.
TABLES = {
    "# Protocol": ["envelope"],
    "## Client to server": ["message"],
    "### Subscription types": ["type"],
    "### Filters": ["operator"],
    "### Less is more": ["option"],
    "## Server to client": ["error"],
    "## Close codes": ["close"],
    "## Server-sent events": ["parameter", "event", "status"],
}


def test_every_row_of_the_protocol_is_checked() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    rows = set()
    for section in re.split(r"^(?=#)", text, flags=re.MULTILINE):
        names = TABLES.get(section.partition("\n")[0], [])
        tables = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section, flags=re.MULTILINE)
        assert len(tables) == len(names), section
        for name, table in zip(names, tables, strict=True):
            for line in table.splitlines():
                first = line.split("|")[1]
                labels = re.findall(r"`([^`]+)`", first) or [first.strip()]
                rows |= {f"{name} {label}" for label in labels}
    rows -= {"parameter last_event_id"}  # the other way to say Last-Event-ID
    assert rows == {check.name.split(".")[0] for check in CHECKS} | set(NOT_CHECKED)


@pytest.mark.processes
def test_it_needs_no_django() -> None:
    program = "import sys; sys.modules['django'] = None; import realtime.conformance.__main__"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_the_list() -> None:
    done = conformance("--list")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(CHECKS) + len(NOT_CHECKED)
    assert command.chosen([], slow=True) == CHECKS
    assert Path(command.__file__).name == "__main__.py"
