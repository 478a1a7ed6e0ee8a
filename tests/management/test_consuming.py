"""The commands that consume another system, as far as they go without it, and what they share."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.test import override_settings

from realtime.log import get_log
from realtime.management.consuming import ConsumingCommand
from realtime.management.running import STOP_SIGNALS
from realtime.publishing.bridge import CannotConsume, Consumption, SourceMessage
from tests.support import free_port, manage
from tests.support.layers import IN_MEMORY, close_layer


class Lines:
    """A source of some texts; when they have been taken in, a signal comes."""

    def __init__(self, *texts: bytes, number: signal.Signals = signal.SIGTERM) -> None:
        self._texts = texts
        self._number = number

    def __str__(self) -> str:
        return "lines"

    async def consume(self, consumption: Consumption) -> None:
        messages = [SourceMessage(n, text, f"line {n}") for n, text in enumerate(self._texts)]
        # Twice: the second time the log has all of them.
        for _ in range(2):
            assert await consumption.take(f"lines {id(self)}", messages)
        threading.Timer(0.05, os.kill, (os.getpid(), self._number)).start()
        await consumption.stopping.wait()


class Command(ConsumingCommand):
    """Consumes lines."""

    def __init__(self, source: Lines) -> None:
        super().__init__(stderr=io.StringIO())
        self._source = source

    def make_source(self, options: dict[str, Any]) -> Lines:
        return self._source


async def newest() -> tuple[int, list[bytes]]:
    """Return the newest offset of events and all that is in its log."""
    chunk = await get_log().read("events", 0)
    await close_layer()
    return chunk.head, [entry.body for entry in chunk.entries]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_it_and_it_says_what_it_has_done(valkey: Any, number: signal.Signals) -> None:
    before = async_to_sync(newest)()[0]
    command = Command(Lines(b'{"n":0}', b"no", b'{"n":2}', number=number))
    call_command(command, "--type", "events")
    head, bodies = async_to_sync(newest)()
    assert head == before + 2
    assert bodies[-2:] == [b'{"n":0}', b'{"n":2}']
    assert command.stderr.getvalue().splitlines() == [
        "test_consuming: lines into events",
        "test_consuming: stopped; published 2, came again 2, skipped 2",
    ]


def test_it_may_end_at_a_message_that_is_no_payload(valkey: Any) -> None:
    before = async_to_sync(newest)()[0]
    with pytest.raises(CommandError, match=r"^line 1: not JSON"):
        call_command(Command(Lines(b"{}", b"no", b"{}")), "--type", "events", "--stop-on-invalid")
    assert async_to_sync(newest)()[0] == before + 1


def test_a_source_that_cannot_be_consumed_is_one_line(
    valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def consume(self: Lines, consumption: Consumption) -> None:
        raise CannotConsume("there is no such thing")

    monkeypatch.setattr(Lines, "consume", consume)
    with pytest.raises(CommandError, match=r"^there is no such thing$"):
        call_command(Command(Lines()), "--type", "events")


def test_there_is_no_log_in_one_process() -> None:
    with (
        override_settings(CHANNEL_LAYERS=IN_MEMORY),
        pytest.raises(CommandError, match="no log to publish to"),
    ):
        call_command(Command(Lines()), "--type", "events")


@pytest.mark.processes
def test_what_cannot_be_consumed_is_said_in_one_line(data_dir: Path) -> None:
    brokers = f"127.0.0.1:{free_port()}"
    given = ("consume_kafka", "--topic", "orders", "--type", "events", "--brokers", brokers)
    done = manage(*given, data_dir=data_dir)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("CommandError: Kafka: KafkaConnectionError")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "library", "option"),
    [("consume_kafka", "aiokafka", "--topic"), ("consume_nats", "nats", "--stream")],
)
def test_without_the_library_it_says_what_to_install(
    command: str, library: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix = command.removeprefix("consume_")
    monkeypatch.delitem(sys.modules, f"realtime.publishing.{suffix}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(CommandError, match=f"pip install -r requirements-{suffix}.txt"):
        call_command(command, option, "x", "--type", "events")
