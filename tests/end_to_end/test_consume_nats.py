"""``manage.py consume_nats`` with a real NATS server: each message once, through kills of both."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.poster import lines
from tests.support import ROOT, Server, client, environment, free_port, newest, wait_until
from tests.support.nats_server import NatsServer, running_nats

ACK_WAIT = "1"


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS server."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Consumer:
    """A consumer's process."""

    def __init__(self, server: Server, url: str, stream: str, *arguments: str) -> None:
        command = ["consume_nats", "--servers", url, "--type", "metrics", "--ack-wait", ACK_WAIT]
        command += ["--stream", stream, *arguments] if stream else arguments
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), *command],
            env=environment(server.data_dir),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send a signal; return what it has said."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)[1]


@contextmanager
def consuming(server: Server, url: str, stream: str, *arguments: str) -> Iterator[Consumer]:
    """Run a consumer."""
    consumer = Consumer(server, url, stream, *arguments)
    try:
        yield consumer
    finally:
        if consumer.process.poll() is None:
            consumer.process.kill()
            consumer.process.communicate()


def numbered(start: int, end: int) -> list[bytes]:
    """Return payloads with these numbers."""
    return lines({"n": n} for n in range(start, end)).splitlines()


async def until_consumed(nats_server: NatsServer, stream: str) -> None:
    """Wait until a consumer has acknowledged everything."""
    async with asyncio.timeout(30):
        while await nats_server.unacknowledged(stream):  # noqa: ASYNC110 - a process's state
            await asyncio.sleep(0.1)


async def published(server: Server, token: str, before: dict[str, Any]) -> list[int]:
    """Return the numbers of what has been published after a position."""
    count = (await newest(server, token, "metrics"))["offset"] - before["offset"]
    async with client(server, token) as page:
        await page.subscribed("metrics", resume=before)
        return [(await page.assert_data("metrics"))["n"] for _ in range(count)]


async def test_messages_are_published(server: Server, token: str, nats_server: NatsServer) -> None:
    payloads = [*numbered(0, 3), b"no", b"[]", *numbered(3, 5)]
    await nats_server.publish("plain", payloads)
    async with client(server, token) as page:
        await page.subscribe("metrics")
        with consuming(server, nats_server.url, "plain") as consumer:
            assert [(await page.assert_data("metrics"))["n"] for _ in range(5)] == [*range(5)]
            await nats_server.publish("plain", numbered(5, 6))
            assert await page.assert_data("metrics") == {"n": 5}
            await until_consumed(nats_server, "plain")
            said = consumer.end()
            assert consumer.process.returncode == 0
    assert "consume_nats: stopped; published 6, came again 0, skipped 2" in said
    assert "plain 4 is skipped: not JSON" in said
    assert "plain 5 is skipped: payload: expected an object, got list" in said


async def test_nothing_is_lost_or_doubled(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    """Two consumers share a stream; they, and NATS, are killed again and again."""
    before = await newest(server, token, "metrics")
    count, part = 4000, 1000
    await nats_server.publish("hard", numbered(0, part))
    consumers = [Consumer(server, nats_server.url, "hard") for _ in range(2)]
    try:
        for start in range(part, count, part):
            await passed_since(server, token, before, start - part)
            consumers.pop(0).end(signal.SIGKILL)
            consumers.append(Consumer(server, nats_server.url, "hard"))
            nats_server.kill()
            nats_server.start()
            await nats_server.publish("hard", numbered(start, start + part))
        await until_consumed(nats_server, "hard")
    finally:
        said = [consumer.end() for consumer in consumers]
    assert not any("Traceback" in one for one in said), said
    assert sorted(await published(server, token, before)) == list(range(count))


async def passed_since(server: Server, token: str, before: dict[str, Any], count: int) -> None:
    """Wait until more than so many have been published."""
    async with client(server, token) as page:
        await page.subscribed("metrics", resume=before)
        for _ in range(count + 1):
            await page.assert_data("metrics")


async def test_what_was_published_but_not_acknowledged_comes_once(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    before = await newest(server, token, "metrics")
    await nats_server.publish("again", numbered(0, 10))
    # Another consumer of the same stream gets all of it, as after a lost acknowledgement.
    for durable in ("first", "second"):
        with consuming(server, nats_server.url, "again", "--durable", durable) as consumer:
            async with asyncio.timeout(20):
                while not await acknowledged(nats_server, durable):  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.1)
            said = consumer.end()
    assert "published 0, came again 10" in said
    assert await published(server, token, before) == list(range(10))
    # A stream made anew counts from 1 again: those are other messages.
    await nats_server.publish("again", numbered(20, 25), anew=True)
    with consuming(server, nats_server.url, "again", "--durable", "first"):
        async with client(server, token) as page:
            await page.subscribed("metrics", resume=before)
            found = [(await page.assert_data("metrics"))["n"] for _ in range(15)]
            assert found[10:] == list(range(20, 25))


async def test_a_stream_made_anew_under_a_consumer_that_runs(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    """Its numbers begin at 1 again, and are not mistaken for those of the stream before."""
    before = await newest(server, token, "metrics")
    await nats_server.publish("fresh", numbered(0, 30))
    with consuming(server, nats_server.url, "fresh"), consuming(server, nats_server.url, "fresh"):
        for start in (30, 60, 90):
            await passed_since(server, token, before, start - 1)
            await until_consumed(nats_server, "fresh")
            await nats_server.publish("fresh", numbered(start, start + 30), anew=True)
        await passed_since(server, token, before, 119)
    assert sorted(await published(server, token, before)) == list(range(120))


async def test_what_is_no_payload_goes_to_a_subject(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    large = b'{"text":"%b"}' % (b"x" * 900_000)
    await nats_server.publish("refused", [])
    await nats_server.publish("mixed", [b"no", *numbered(0, 2), b"[1]", large + b"}"])
    before = await newest(server, token, "metrics")
    options = ("--dead-letter", "refused.mixed")
    with consuming(server, nats_server.url, "mixed", *options) as consumer:
        await until_consumed(nats_server, "mixed")
        assert "published 2, came again 0, skipped 3" in consumer.end()
    assert await published(server, token, before) == [0, 1]
    kept = await nats_server.messages("refused", 3)
    assert [data for data, _ in kept] == [b"no", b"[1]", large + b"}"]
    assert kept[1][1]["Realtime-Source"] == "mixed 4"
    assert "expected an object, got list" in kept[1][1]["Realtime-Error"]
    # Without a stream that has the subject nothing is acknowledged.
    await nats_server.publish("other", [b"no"])
    with consuming(server, nats_server.url, "other", "--dead-letter", "nobody") as consumer:
        said = await asyncio.to_thread(consumer.process.communicate, timeout=20)
    assert "no stream has the subject 'nobody'" in said[1]
    assert await nats_server.unacknowledged("other") == 1


async def test_dead_letters_of_a_stream_made_anew(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    """Their numbers are those of the stream before; NATS must not take them for the same."""
    await nats_server.publish("letters", [])
    await nats_server.publish("remade", [b"no"])
    with consuming(server, nats_server.url, "remade", "--dead-letter", "letters.remade"):
        await until_consumed(nats_server, "remade")
        await nats_server.publish("remade", [b"nor this"], anew=True)
        await until_consumed(nats_server, "remade")
    assert [data for data, _ in await nats_server.messages("letters", 2)] == [b"no", b"nor this"]


async def test_a_dead_letter_as_large_as_nats_takes(
    server: Server, token: str, nats_server: NatsServer
) -> None:
    """With headers it would be larger than NATS takes."""
    await nats_server.publish("largest", [])
    await nats_server.publish("full", [b"x" * (1024 * 1024), *numbered(0, 1)])
    before = await newest(server, token, "metrics")
    with consuming(server, nats_server.url, "full", "--dead-letter", "largest.full"):
        await until_consumed(nats_server, "full")
    assert (await newest(server, token, "metrics"))["offset"] - before["offset"] == 1
    [(data, _)] = await nats_server.messages("largest", 1)
    assert len(data) == 1024 * 1024


async def test_many_large_messages(server: Server, token: str, nats_server: NatsServer) -> None:
    """More than one call to the log's server could take in time."""
    before = await newest(server, token, "metrics")
    payloads = [b'{"n":%d,"text":"%b"}' % (n, b"x" * 900_000) for n in range(60)]
    await nats_server.publish("large", payloads)
    with consuming(server, nats_server.url, "large"):
        await until_consumed(nats_server, "large")
    assert (await newest(server, token, "metrics"))["offset"] - before["offset"] == 60


async def acknowledged(nats_server: NatsServer, durable: str) -> bool:
    """Tell whether a consumer is there and has acknowledged everything."""
    try:
        return await nats_server.unacknowledged("again", durable) == 0
    except Exception:
        return False


async def test_the_log_is_away(data_dir: Path, nats_server: NatsServer) -> None:
    with Server(data_dir) as server:
        server.may_fail = True
        token = server.token()
        async with client(server, token) as page:
            await page.subscribe("metrics")
            (valkey,) = server.valkey()
            valkey.suspend()
            await nats_server.publish("away", numbered(0, 20))
            with consuming(server, nats_server.url, "away") as consumer:
                assert consumer.process.stderr is not None
                while "did not confirm" not in (line := consumer.process.stderr.readline()):
                    assert line
                valkey.resume()
                assert [(await page.assert_data("metrics"))["n"] for _ in range(20)] == [*range(20)]
                await until_consumed(nats_server, "away")
                assert consumer.end().endswith("skipped 0\n")


async def test_one_subject_of_a_stream(server: Server, token: str, nats_server: NatsServer) -> None:
    for number, subject in enumerate(("many.eu.a", "many.us.a", "many.eu.b")):
        await nats_server.publish("many", numbered(number, number + 1), subject)
    async with client(server, token) as page:
        await page.subscribe("metrics")
        with consuming(server, nats_server.url, "many", "--subject", "many.eu.*"):
            assert [await page.assert_data("metrics") for _ in range(2)] == [{"n": 0}, {"n": 2}]
            await until_consumed(nats_server, "many")
        # The stream is found by the subject.
        with consuming(server, nats_server.url, "", "--subject", "many.us.*", "--durable", "us"):
            assert await page.assert_data("metrics") == {"n": 1}


async def test_stop_on_invalid(server: Server, token: str, nats_server: NatsServer) -> None:
    before = await newest(server, token, "metrics")
    await nats_server.publish("strict", [*numbered(0, 2), b"no", *numbered(2, 3)])
    with consuming(server, nats_server.url, "strict", "--stop-on-invalid") as consumer:
        wait_until(lambda: consumer.process.poll() is not None, 30)
        assert consumer.process.returncode == 1
        _, said = consumer.process.communicate()
    assert said.splitlines()[-1].startswith("CommandError: strict 3: not JSON")
    assert await published(server, token, before) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stream", "nothing"], "there is no stream nothing"),
        (["--subject", "nothing"], "there is no stream for the subject 'nothing'"),
        ([], "name a --stream, a --subject or both"),
        (["--stream", "plain", "--ack-wait", "0"], "--ack-wait: must be 1 or more"),
        (["--stream", "plain", "--servers", f"nats://127.0.0.1:{free_port()}"], "NATS: "),
    ],
)
def test_what_cannot_be_consumed_is_said_in_one_line(
    server: Server, nats_server: NatsServer, arguments: list[str], said: str
) -> None:
    given = ["--servers", nats_server.url, "--type", "metrics", *arguments]
    done = server.manage("consume_nats", *given)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("CommandError: ") and said in done.stderr
    assert "Traceback" not in done.stderr
