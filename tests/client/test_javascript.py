"""The JavaScript client in Node, against real servers and through a proxy that breaks things."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.javascript.blocker import Blocker
from tests.client.javascript.node import HERE, Driven, needs_node, node
from tests.support import ROOT, TIMEOUT, Server, free_port, running
from tests.system.faults.disconnects import LAST, disturb, publish, through_proxy

pytestmark = needs_node

TRANSPORTS = ["websocket", "sse"]


@pytest.fixture
async def page() -> AsyncIterator[Driven]:
    """A program that uses the client."""
    async with Driven() as driven:
        yield driven


both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


@both_transports
async def test_messages_with_their_positions(
    server: Server, token: str, page: Driven, transport: str
) -> None:
    publish(server, 1, 2, 3)
    await page.open(server.url, token, transports=[transport])
    answer = await page.subscribe("events", {"n": [2, 3, 4]}, options={"rewind": 2})
    assert (answer["type"], answer["replayed"]) == ("events", 2)
    assert await page.numbers(2) == [2, 3]
    position = server.publish("events", {"n": 4, "text": "ü"})[0]
    said = await page.until(of="events-1")
    assert said["data"] == {"event": {"n": 4, "text": "ü"}, "subscription_type": "events"}
    assert said["position"] == position
    page.do("unsubscribe", id="events-1")
    page.do("show")
    assert (await page.until(state="open"))["ids"] == []
    await page.end()
    async with Driven() as another:
        await another.open(server.url, token, transports=[transport])
        before = position | {"offset": position["offset"] - 1}
        assert (await another.subscribe("events", options={"resume": before}))["recovered"]
        assert await another.numbers(1) == [4]


@both_transports
async def test_an_explanation(server: Server, token: str, page: Driven, transport: str) -> None:
    publish(server, 1, 2, 3)
    await page.open(server.url, token, transports=[transport])
    answer = await page.subscribe("events", {"n": {"gt": 2}}, options={"explain": True})
    found = answer["explain"]
    assert 1 <= found["matching"] == found["paths"]["n"]["matching"] < found["retained"]
    assert answer["explanation"] == found
    answer = await page.subscribe("events")
    assert "explain" not in answer and answer["explanation"] is None


@both_transports
async def test_what_is_refused(server: Server, page: Driven, transport: str) -> None:
    await page.open(server.url, server.new_token(types=["events"]), transports=[transport])
    wrong = await page.subscribe("events", {"a..b": 1})
    assert wrong["code"] == "invalid_subscription" and "empty step" in wrong["error"]
    assert (await page.subscribe("alerts"))["code"] == "forbidden"
    assert (await page.subscribe("nothing"))["code"] == "invalid_subscription"
    assert "ready" in await page.subscribe("events")  # none of this ends the connection
    page.do("take", id="events-1", count=1)


@both_transports
async def test_options(server: Server, token: str, page: Driven, transport: str) -> None:
    """Messages of a batch come one by one; equal options are one subscription, others are not."""
    await page.open(server.url, token, transports=[transport])
    less = {"maxRate": 50, "conflate": "k", "batchMs": 50, "fields": ["n", "k"]}
    answer = await page.subscribe("metrics", options=less | {"onOverflow": "drop"})
    in_force = {"max_rate": 50, "conflate": "k", "fields": ["k", "n"], "on_overflow": "drop"}
    if transport == "websocket":
        in_force["batch_ms"] = 50
    assert answer["options"] == in_force
    plain = await page.subscribe("metrics", options={"id": "plain"})
    assert "options" not in plain
    sent = server.publish("metrics", *({"n": n, "k": n % 3, "m": n} for n in range(30)))
    assert await page.numbers(30, "plain") == list(range(30))
    found: list[int] = []
    while not {27, 28, 29} <= set(found):
        said = await page.until(of="metrics-1")
        assert set(said["data"]["metrics"]) == {"n", "k"}
        assert said["data"]["subscription_type"] == "metrics"
        assert said["position"] == sent[said["n"]]
        found.append(said["n"])
    assert found == sorted(set(found))
    wrong = await page.subscribe("metrics", options={"id": "wrong", "maxRate": 0})
    assert wrong["code"] == "invalid_subscription" and "max_rate" in wrong["error"]


@both_transports
async def test_fifty_disconnects_and_every_message_once(
    server: Server, token: str, page: Driven, transport: str
) -> None:
    async with through_proxy(server) as (proxy, url):
        await page.open(url, token, transports=[transport])
        await page.subscribe("events")
        await page.subscribe("events", {"n": LAST})
        # An equal one shares what the server sends.
        await page.subscribe("events", {"n": [LAST]}, options={"id": "equal"})

        disturbing = asyncio.create_task(disturb(server, proxy))
        received: dict[str, list[int]] = {"events-1": [], "events-2": [], "equal": []}
        async with asyncio.timeout(90):
            while not (all(received.values()) and LAST in received["events-1"]):
                said = await page.line()
                assert "gap" not in said and "failed" not in said, said
                if "n" in said:
                    received[said["of"]].append(said["n"])
        await disturbing
        assert [n for n in received["events-1"] if n != -1] == list(range(LAST + 1))
        assert received["events-2"] == received["equal"] == [LAST]


@both_transports
async def test_equal_subscriptions(
    server: Server, token: str, page: Driven, transport: str
) -> None:
    """Each is told what it asked for, though the server has one subscription for them."""
    position = server.publish("events", {"n": 0}, {"n": 1}, {"n": 2})[0]
    await page.open(server.url, token, transports=[transport])
    await page.subscribe("events")
    publish(server, 3)
    assert await page.numbers(1) == [3]
    answer = await page.subscribe("events", options={"id": "behind", "resume": position})
    assert await page.numbers(3, "behind") == [1, 2, 3], answer
    publish(server, 4)
    assert await page.numbers(1) == await page.numbers(1, "behind") == [4]
    page.do("unsubscribe", id="events-1")
    # The id is free again, though not on the wire.
    await page.subscribe("events", {"n": 6}, options={"id": "events-1"})
    publish(server, 5, 6)
    assert await page.numbers(2, "behind") == [5, 6]
    assert await page.numbers(1) == [6]
    assert not [said for said in page.said if "gap" in said or "failed" in said]


@pytest.mark.processes
@both_transports
async def test_a_server_that_restarts(data_dir: Path, page: Driven, transport: str) -> None:
    port = str(free_port())
    with running(data_dir, "--port", port, drain_timeout="2") as first:
        await page.open(first.url, first.new_token(), transports=[transport])
        await page.subscribe("events")
        publish(first, 1)
        assert await page.numbers(1) == [1]
        first.process.send_signal(signal.SIGTERM)
        lost = await page.until(state="recovering")
        assert (lost["code"], lost["reason"]) == (1012, "server restarting")
        assert lost["retryIn"] > 0
        first.process.wait(TIMEOUT)
    with running(data_dir, "--port", port) as second:
        publish(second, 2)
        assert await page.numbers(1) == [2]
        await page.until(state="open")  # once; it may be said after the first message
        page.do("close")
        await page.until(state="closed")
        assert "open" not in [said.get("state") for said in page.said]


@both_transports
async def test_a_revoked_token(server: Server, page: Driven, transport: str) -> None:
    token = server.new_token(name=f"revoked js {transport}")
    await page.open(server.url, token, transports=[transport])
    await page.subscribe("events", iterate=True)
    page.do("take", id="events-1", count=1)
    server.manage("revoke_token", f"revoked js {transport}")
    failed = await page.until(failed="events-1")
    assert (failed["error"], failed["code"]) == ("token revoked", 1008)
    closed = await page.until(state="closed")
    assert (closed["code"], closed["error"]) == (1008, "token revoked")
    assert await page.until(taken=[]) == {"taken": [], "error": "token revoked", "code": 1008}
    page.do("end")
    async with asyncio.timeout(TIMEOUT):  # nothing is left that would come back
        assert await page.process.wait() == 0


async def test_a_wrong_token(server: Server, page: Driven) -> None:
    page.connect(server.url, "rt_wrong")
    page.do("subscribe", type="events", filters={})
    closed = await page.until(state="closed")
    assert closed["error"] == "Invalid credentials"
    assert [said["code"] for said in page.said if "failed" in said] == ["invalid_credentials"]


@both_transports
async def test_a_token_for_each_connection(server: Server, page: Driven, transport: str) -> None:
    tokens: list[str | None] = [server.new_token(), None, server.new_token()]
    async with through_proxy(server) as (proxy, url):
        page.connect(url, tokens=tokens, transports=[transport])
        page.do("subscribe", type="events", filters={})
        await page.until(ready="events-1")
        await page.until(state="open") if transport == "websocket" else None
        proxy.reset()
        publish(server, 7)
        assert await page.numbers(1) == [7]
    assert sum("asked" in said for said in page.said) == 3


async def test_a_token_that_has_just_expired_is_made_anew(server: Server, page: Driven) -> None:
    page.connect(server.url, tokens=["ct_expired", server.new_token()])
    await page.until(state="open")
    async with Driven() as other:
        other.connect(server.url, tokens=["ct_expired", "ct_expired", server.new_token()])
        await other.until(state="closed")


@both_transports
async def test_a_type_that_is_not_allowed_any_more(
    server: Server, page: Driven, transport: str
) -> None:
    name = f"narrowed js {transport}"
    await page.open(server.url, server.new_token(name=name), transports=[transport])
    await page.subscribe("events")
    await page.subscribe("alerts")
    server.administer(f"AccessToken.objects.filter(name={name!r}).update(types=['alerts'])")
    failed = await page.until(failed="events-1")
    assert failed["code"] == "forbidden"
    publish(server, 1, kind="alerts")
    assert await page.numbers(1, "alerts-2") == [1]


@both_transports
async def test_a_network_that_is_dead(
    server: Server, token: str, page: Driven, transport: str
) -> None:
    async with through_proxy(server) as (proxy, url):
        await page.open(url, token, heartbeat=0.2, answerTimeout=0.3, transports=[transport])
        await page.subscribe("events")
        proxy.flowing.clear()
        assert (await page.until(state="recovering"))["reason"] == "no answer"
        publish(server, 1)
        proxy.flowing.set()
        assert await page.numbers(1) == [1]


@pytest.mark.processes
@both_transports
async def test_a_log_that_is_lost(data_dir: Path, page: Driven, transport: str) -> None:
    with running(data_dir) as server:
        await page.open(server.url, server.new_token(), transports=[transport])
        await page.subscribe("events")
        publish(server, 1)
        await page.numbers(1)
        server.administer(
            "from realtime.cluster.clients import sync_client\n"
            "from realtime.cluster.layer import layer_servers\n"
            "sync_client(layer_servers()[0]).flushall()"
        )
        publish(server, 2)
        assert (await page.until(of="events-1"))["gap"]["reason"] == "epoch_changed"
        assert await page.numbers(1) == [2]


@pytest.mark.processes
async def test_what_is_not_retained_any_more(data_dir: Path, page: Driven) -> None:
    with running(data_dir, history_size="100") as server:
        async with through_proxy(server) as (proxy, url):
            await page.open(url, server.new_token())
            await page.subscribe("events")
            publish(server, 0)
            await page.numbers(1)
            proxy.flowing.clear()
            proxy.reset()
            await page.until(state="recovering")
            publish(server, *range(1, 5000))
            proxy.flowing.set()
            assert (await page.until(of="events-1"))["gap"] == {"reason": "not recovered"}
            first = (await page.numbers(1))[0]
            assert first > 1
            assert await page.numbers(4999 - first) == list(range(first + 1, 5000))


@both_transports
async def test_an_iterator_that_is_slow(
    server: Server, token: str, page: Driven, transport: str
) -> None:
    await page.open(server.url, token, buffer=100, transports=[transport])
    await page.subscribe("events", iterate=True)
    await page.subscribe("events")  # an equal one that is not slow
    publish(server, *range(3000))
    assert await page.numbers(3000, "events-2") == list(range(3000))
    for start in range(0, 3000, 500):
        page.do("take", id="events-1", count=500)
        taken = await page.until(taken=list(range(start, start + 500)))
    assert taken["position"] is not None
    publish(server, 3000)
    page.do("take", id="events-1", count=1)
    await page.until(taken=[3000])
    assert await page.numbers(1, "events-2") == [3000]


async def test_a_callback_that_fails(server: Server, token: str, page: Driven) -> None:
    await page.open(server.url, token)
    await page.subscribe("events", fail=True)
    publish(server, 1, 2)
    # Node has no reportError, so it goes to the console.
    assert await page.numbers(2) == [1, 2]
    assert page.process.stderr is not None
    for _ in range(2):
        while b"the callback fails" not in await page.process.stderr.readline():
            pass
    page.process.kill()
    await page.process.stderr.read()


@pytest.mark.processes
async def test_nobody_there(page: Driven) -> None:
    page.connect(f"ws://127.0.0.1:{free_port()}/ws/", "x")
    page.do("subscribe", type="events", filters={})
    transports = set()
    for _ in range(8):
        said = await page.until(state="connecting")
        assert said["retryIn"] <= 0.1
        transports.add(said["transport"])
    assert transports == {"websocket", "sse"}
    await page.end()


async def test_close_while_it_connects(server: Server, token: str, page: Driven) -> None:
    page.connect(server.url, token)
    await page.end()


class TestWhereWebSocketsAreBlocked:
    """A network that lets only ordinary requests through."""

    async def test_it_falls_back(self, server: Server, token: str, page: Driven) -> None:
        async with Blocker(server.port) as blocker:
            page.connect(f"ws://127.0.0.1:{blocker.port}/ws/", token)
            publish(server, 31)
            page.do("subscribe", type="events", filters={"n": [31, 32]}, options={"rewind": 1})
            await page.until(ready="events-1")
            publish(server, 32)
            assert await page.numbers(2) == [31, 32]
            assert blocker.refused == 2
            page.do("show")
            assert (await page.until(ids=["events-1"]))["state"] == "open"
            assert [s["transport"] for s in page.said if s.get("state") == "open"] == ["sse"]

    async def test_it_finds_back(self, server: Server, token: str, page: Driven) -> None:
        async with Blocker(server.port) as blocker:
            page.connect(f"ws://127.0.0.1:{blocker.port}/ws/", token)
            page.do("subscribe", type="events", filters={})
            await page.until(ready="events-1")
            blocker.blocks = False
            blocker.reset()
            assert (await page.until(state="open", transport="websocket"))["previous"]
            publish(server, 1)
            assert await page.numbers(1) == [1]


async def test_the_program_of_the_documentation(server: Server, token: str, tmp_path: Path) -> None:
    text = (ROOT / "docs/clients.md").read_text()
    program = text.split("```javascript\n")[1].split("```")[0]
    for written, here in (
        ("./realtime/static", f"{ROOT}/realtime/static"),
        ("wss://stream.example.com/ws/", server.url),
    ):
        assert written in program
        program = program.replace(written, here)
    (tmp_path / "program.mjs").write_text(program)
    publish(server, *range(10))
    process = await asyncio.create_subprocess_exec(
        *node(),
        str(tmp_path / "program.mjs"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TOKEN": token},
    )
    assert process.stdout is not None and process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        assert await process.stderr.readline() == b"open \n"
        assert b"{ n: 0 }" in await process.stdout.readline()
    process.kill()
    await process.communicate()


@pytest.mark.processes
def test_the_parts_by_themselves() -> None:
    done = subprocess.run(
        [*node(), "--test", str(HERE / "units.test.mjs")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.processes
def test_the_types(tmp_path: Path) -> None:
    """A program of the documentation's kind is accepted, and a wrong one is not."""
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("no npx on PATH: the types are checked with TypeScript")
    client = json.dumps(str(ROOT / "realtime/static/realtime/client.js"))
    (tmp_path / "right.ts").write_text(
        f"import {{ StreamingClient, type Position }} from {client};\n"
        "const client = new StreamingClient('/ws/', async () => 'x', { heartbeat: 5 });\n"
        "let last: Position | null = null;\n"
        "client.addEventListener('state', ({ detail }) => console.log(detail.retryIn));\n"
        "const id = client.subscribe('events', { a: [1, 'b'] }, ({ event }, message) => {\n"
        "  last = message.position; console.log(event?.id, last);\n"
        "}, { rewind: 5 });\n"
        "client.unsubscribe(id);\n"
        "client.subscribe('events', { a: { gte: 1 }, $or: [{ b: { in: [1] } }, { c: null }] });\n"
        "for await (const message of client.subscribe<{ n: number }>('metrics')) {\n"
        "  const n: number = message.payload.n; console.log(n);\n"
        "  const seen = client.subscribe('events', {}, { explain: true }).explanation;\n"
        "  const or: number | undefined = seen?.or?.[0].paths['a'].present; console.log(or);\n"
        "}\n"
    )
    (tmp_path / "wrong.ts").write_text(
        f"import {{ StreamingClient }} from {client};\n"
        "new StreamingClient('/ws/').subscribe('event');\n"
    )
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext"]
    options += ["--moduleResolution", "bundler", "--lib", "es2023,dom"]
    answers: list[Any] = []
    for name in ("right.ts", "wrong.ts"):
        done = subprocess.run(
            [npx, "--yes", "--package", "typescript@5.9", "tsc", *options, str(tmp_path / name)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        if "npm error" in done.stderr:
            pytest.skip("TypeScript cannot be installed with npm here")
        answers.append(done.stdout)
    assert answers[0] == ""
    assert "'\"event\"' is not assignable" in answers[1]
