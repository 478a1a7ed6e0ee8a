"""Predictors: run as a command in processes that are killed, and their failures one by one."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management.base import CommandError
from django.test import override_settings

from realtime import publish_many
from realtime.analytics.predictions import definitions
from realtime.analytics.predictions.definitions import Predictor, predictor
from realtime.analytics.predictions.processor import PredictorProcessor
from realtime.analytics.processing.runner import Runner
from realtime.analytics.processing.state import FIELD_PREFIX, LEASE, place_of
from realtime.analytics.registry import DefinitionRegistry
from realtime.cluster import BEAT_INTERVAL
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import key, layer_servers
from realtime.log import get_log
from tests.support import ROOT, TIMEOUT, environment, manage, wait_until
from tests.support.layers import close_layer, running_valkey, until

pytestmark = pytest.mark.processes

Payload = dict[str, Any]


@pytest.fixture(autouse=True)
async def layer(data_dir: Path) -> AsyncIterator[None]:
    with running_valkey(data_dir):
        yield
        await close_layer()


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> DefinitionRegistry[Predictor]:
    """An empty registry."""
    registry: DefinitionRegistry[Predictor] = DefinitionRegistry("predictor")
    monkeypatch.setattr(definitions, "predictors", registry)
    return registry


def publish_numbers(*numbers: int) -> None:
    publish_many("events", [{"n": number} for number in numbers])


async def read_predictions() -> list[Payload]:
    """Return all that has been predicted."""
    predictions: list[Payload] = []
    after = 0
    while (chunk := await get_log().read("predictions", after)).entries:
        predictions += [msgspec.json.decode(entry.body) for entry in chunk.entries]
        after = chunk.first + len(chunk.entries) - 1
    return predictions


async def until_predicted(count: int) -> list[Payload]:
    """Wait until there are so many predictions; return them."""
    async with asyncio.timeout(TIMEOUT * 2):
        while len(predictions := await read_predictions()) < count:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)
    assert len(predictions) == count
    return predictions


@contextlib.asynccontextmanager
async def run(registry: DefinitionRegistry[Predictor]) -> AsyncIterator[Runner]:
    """Run all declared predictors."""
    runner = Runner(
        "predictors", lambda: [PredictorProcessor(prediction) for prediction in registry]
    )
    task = asyncio.create_task(runner.run())
    try:
        await until(lambda: len(runner.holds) == len(list(registry)))
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


# What predictors return


async def test_predictions_say_who_predicted_what(declared: DefinitionRegistry[Predictor]) -> None:
    @predictor("events", filters={"n": [1, 3, 4]}, from_start=True)
    def twice(payloads: list[Payload]) -> list[Any]:
        return [
            None if prediction["n"] == 3 else {"twice": prediction["n"] * 2}
            for prediction in payloads
        ]

    publish_numbers(1, 2, 3, 4)
    epoch = (await get_log().read("events", 0)).epoch
    async with run(declared):
        assert await until_predicted(2) == [
            {
                "predictor": "twice",
                "source": {"type": "events", "epoch": epoch, "offset": offset},
                "twice": 2 * offset,
            }
            for offset in (1, 4)
        ]


async def test_a_payload_may_have_several_predictions_and_fields_of_its_own(
    declared: DefinitionRegistry[Predictor],
) -> None:
    @predictor("events", name="several", from_start=True)
    async def predict(payloads: list[Payload]) -> list[Any]:
        await asyncio.sleep(0)
        return [
            [{"source": "mine", "h": hour} for hour in range(prediction["n"])]
            for prediction in payloads
        ]

    publish_numbers(2, 0, 1)
    async with run(declared):
        predictions = await until_predicted(3)
    assert [
        (prediction["predictor"], prediction["source"], prediction["h"])
        for prediction in predictions
    ] == [("several", "mine", hour) for hour in (0, 1, 0)]


async def test_batches_are_as_large_as_wanted(declared: DefinitionRegistry[Predictor]) -> None:
    sizes: list[int] = []

    @predictor("events", batch_size=3, from_start=True)
    def sized(payloads: list[Payload]) -> list[Any]:
        sizes.append(len(payloads))
        return payloads

    publish_numbers(*range(10))
    async with run(declared):
        predictions = await until_predicted(10)
    assert sizes == [3, 3, 3, 1]
    assert [prediction["n"] for prediction in predictions] == list(range(10))


async def test_a_new_predictor_begins_with_what_is_published_then(
    declared: DefinitionRegistry[Predictor],
) -> None:
    @predictor("events")
    def same(payloads: list[Payload]) -> list[Any]:
        return payloads

    publish_numbers(1)
    async with run(declared) as runner:
        await until(lambda: runner.holds["same"].saved is not None)
        publish_numbers(2)
        assert [prediction["n"] for prediction in await until_predicted(1)] == [2]


# Failures


async def test_what_fails_is_skipped_and_told_once(
    declared: DefinitionRegistry[Predictor], caplog: pytest.LogCaptureFixture
) -> None:
    @predictor("events", batch_size=1, from_start=True)
    def fragile(payloads: list[Payload]) -> Any:
        match payloads[0]["n"] % 6:
            case 0:
                return payloads
            case 1:
                raise KeyError("no such flight")
            case 2:
                return [{"odds": float("nan")}]
            case 3:
                return [{}, {}]
            case 4:
                return ["text"]
            case _:
                sys.exit("no")

    publish_numbers(*range(19))
    async with run(declared):
        assert [prediction["n"] for prediction in await until_predicted(4)] == [0, 6, 12, 18]
    logged = "\n".join(tracebacks(caplog))
    assert len(tracebacks(caplog)) == 5
    for text in "no such flight", "NaN", "2 items for 1 payloads", "not str", "SystemExit":
        assert text in logged
    assert "fragile: no predictions of 15 messages so far" in caplog.messages


async def test_a_payload_that_is_no_object_is_for_nobody(
    declared: DefinitionRegistry[Predictor],
) -> None:
    @predictor("events", from_start=True)
    def same(payloads: list[Payload]) -> list[Any]:
        return payloads

    publish_numbers(1)
    await get_log().aappend(_raw(b"\xff"))
    publish_numbers(2)
    async with run(declared):
        assert [prediction["n"] for prediction in await until_predicted(2)] == [1, 2]


def _raw(body: bytes) -> Any:
    from realtime.publishing.publication import Publication

    return Publication("events", [body], None).append


async def test_a_slow_predictor_keeps_its_lease_and_delays_no_other(
    declared: DefinitionRegistry[Predictor],
) -> None:
    go = threading.Event()

    @predictor("events", from_start=True)
    def slow(payloads: list[Payload]) -> list[Any]:
        assert go.wait(60)
        return [{"slow": True} for _ in payloads]

    @predictor("events", from_start=True)
    def quick(payloads: list[Payload]) -> list[Any]:
        return payloads

    client = sync_client(layer_servers()[0])
    lease = key("{predictions}:processor:slow:lease")
    publish_numbers(1)
    async with run(declared):
        await until_predicted(1)
        # It is renewed while the predictor is at work.
        await until(lambda: client.pttl(lease) < 1000 * (LEASE - BEAT_INTERVAL / 2))
        await until(lambda: client.pttl(lease) > 1000 * (LEASE - BEAT_INTERVAL / 4))
        publish_numbers(2)
        await until_predicted(2)
        go.set()
        predictions = await until_predicted(4)
    assert [prediction["predictor"] for prediction in predictions] == [
        "quick",
        "quick",
        "slow",
        "slow",
    ]


# Models


class Counter:
    """A model that says how many it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def predict(self, payloads: list[Payload]) -> list[Any]:
        first = self.seen + 1
        self.seen += len(payloads)
        return [
            {"n": prediction["n"], "seen": first + at} for at, prediction in enumerate(payloads)
        ]

    def save(self) -> bytes:
        return pickle.dumps(self.seen)

    def restore(self, data: bytes) -> None:
        self.seen = pickle.loads(data)


async def test_a_model_learns_again_what_came_after_it_was_saved(
    declared: DefinitionRegistry[Predictor],
) -> None:
    saves: list[int] = []

    @predictor("events", save_every=3600, from_start=True)
    class Reluctant(Counter):
        def save(self) -> bytes:
            saves.append(self.seen)
            return super().save()

    for first in range(0, 300, 100):
        publish_numbers(*range(first, first + 100))
        async with run(declared):
            predictions = await until_predicted(first + 100)
        assert [prediction["seen"] for prediction in predictions] == list(range(1, first + 101))
    # It was saved when it began, and not again each time something was published.
    assert len(saves) == 3


async def test_an_idle_model_is_saved_too(declared: DefinitionRegistry[Predictor]) -> None:
    predictor("events", name="counter", save_every=0.2, from_start=True)(Counter)
    publish_numbers(1, 2, 3)
    (prediction,) = declared
    async with run(declared) as runner:
        await until_predicted(3)
        await until(lambda: runner.holds["counter"].saved == runner.holds["counter"].position)
    place = place_of(PredictorProcessor(prediction))
    model: Any = sync_client(place.server).hget(place.state, f"{FIELD_PREFIX}model")
    assert pickle.loads(model[32:]) == 3


async def test_another_version_begins_anew_and_predicts_nothing_twice(
    declared: DefinitionRegistry[Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor("events", name="counter", save_every=3600, from_start=True)(Counter)
    publish_numbers(1, 2, 3)
    async with run(declared):
        await until_predicted(3)
    registry: DefinitionRegistry[Predictor] = DefinitionRegistry("predictor")
    monkeypatch.setattr(definitions, "predictors", registry)
    predictor("events", name="counter", version="2", from_start=True)(Counter)
    publish_numbers(4, 5)
    async with run(registry):
        predictions = await until_predicted(5)
    assert [prediction["seen"] for prediction in predictions] == [1, 2, 3, 1, 2]
    assert [prediction["n"] for prediction in predictions] == [1, 2, 3, 4, 5]


async def test_a_model_of_another_site_is_not_loaded(
    declared: DefinitionRegistry[Predictor], caplog: pytest.LogCaptureFixture
) -> None:
    predictor("events", name="counter", save_every=0, from_start=True)(Counter)
    publish_numbers(1)
    async with run(declared):
        await until_predicted(1)
    publish_numbers(2)
    with override_settings(SECRET_KEY="another"):
        async with run(declared):
            await until(lambda: any("another SECRET_KEY" in text for text in caplog.messages))
        assert len(await read_predictions()) == 1
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["another", _secret()]):
        async with run(declared):
            assert [prediction["seen"] for prediction in await until_predicted(2)] == [1, 2]


def _secret() -> str:
    from django.conf import settings

    return settings.SECRET_KEY


async def test_a_model_that_cannot_be_saved_still_predicts(
    declared: DefinitionRegistry[Predictor], caplog: pytest.LogCaptureFixture
) -> None:
    @predictor("events", save_every=0, from_start=True)
    class Unsaved(Counter):
        def save(self) -> Any:
            return "text"

    publish_numbers(1, 2)
    async with run(declared):
        assert [prediction["seen"] for prediction in await until_predicted(2)] == [1, 2]
        publish_numbers(3)
        await until_predicted(3)
    assert len(tracebacks(caplog)) == 1
    assert "save() returned str" in tracebacks(caplog)[0]
    async with run(declared):  # it learns all of it again, as that is retained
        publish_numbers(4)
        assert [prediction["seen"] for prediction in await until_predicted(4)] == [1, 2, 3, 4]


async def test_a_lost_log_is_told_and_the_model_goes_on(
    declared: DefinitionRegistry[Predictor], caplog: pytest.LogCaptureFixture
) -> None:
    predictor("events", name="counter", from_start=True)(Counter)
    publish_numbers(1, 2)
    async with run(declared):
        await until_predicted(2)
        sync_client(layer_servers()[0]).delete(key("{events}:head"))
        publish_numbers(3)
        predictions = await until_predicted(3)
    assert [prediction["seen"] for prediction in predictions] == [1, 2, 3]
    assert "counter: the log was lost before all of it was read" in caplog.messages


# Declarations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "event"}, "source: expected one of events, "),
        ({"source": "predictions"}, "source: expected one of events, "),
        ({"filters": {"a..b": 1}}, "empty step"),
        ({"name": "no spaces"}, "'no spaces' is not 1 to 100"),
        ({"batch_size": 0}, "expected 1 to 10000"),
        ({"save_every": -1}, "expected 0 to 3600"),
    ],
)
def test_a_wrong_declaration_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(**({"source": "events"} | arguments))(lambda payloads: payloads)


def test_a_class_needs_predict_and_both_save_and_restore() -> None:
    class Nothing:
        pass

    class Half:
        predict = save = None

    with pytest.raises(TypeError, match="Nothing has no method predict"):
        predictor("events")(Nothing)
    with pytest.raises(TypeError, match="both or neither"):
        predictor("events")(Half)


def test_a_name_is_taken_once(declared: DefinitionRegistry[Predictor]) -> None:
    predictor("events", name="one")(Counter)
    with pytest.raises(ValueError, match="there is another predictor named 'one'"):
        predictor("metrics", name="one")(Counter)
    assert [prediction.source for prediction in declared.select([])] == ["events"]
    with pytest.raises(CommandError, match=r"no predictor is named 'two' \(there are: one\)"):
        declared.select(["two"])


# The command

STREAMS = """
import pickle
import realtime

@realtime.predictor("events", from_start=True, save_every=0.3)
class Counter:
    def __init__(self):
        self.seen = 0
    def predict(self, payloads):
        first = self.seen + 1
        self.seen += len(payloads)
        return [{"n": one["n"], "seen": first + at} for at, one in enumerate(payloads)]
    def save(self):
        return pickle.dumps(self.seen)
    def restore(self, data):
        self.seen = pickle.loads(data)

@realtime.predictor("events", from_start=True)
async def twice(payloads):
    return [{"n": one["n"], "twice": one["n"] * 2} for one in payloads]
"""


@pytest.fixture
def project(data_dir: Path) -> dict[str, str]:
    """The variables of a project with an app ``shop`` that has a ``streams.py``."""
    app = data_dir / "project" / "shop"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "streams.py").write_text(STREAMS)
    (app.parent / "shop_settings.py").write_text(
        "from streaming_site.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": str(app.parent)}


def streams(data_dir: Path) -> Path:
    return data_dir / "project/shop/streams.py"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(data_dir: Path, project: dict[str, str]) -> Iterator[Start]:
    """Start the command."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "manage.py", "run_predictors", *arguments],
                    env=environment(data_dir, **project),
                    cwd=ROOT,
                    text=True,
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("run_predictors: ")
            return process

        yield start


async def test_each_message_is_predicted_once_whoever_is_killed(start: Start) -> None:
    process = start()
    for first in range(0, 4000, 100):
        await asyncio.to_thread(publish_numbers, *range(first, first + 100))
        if first in (900, 2400):
            await until_predicted(2 * (first + 100))  # it works
            process.kill()
            process.wait()
            process = start()
    predictions = await until_predicted(8000)
    counted = [
        (prediction["n"], prediction["seen"])
        for prediction in predictions
        if prediction["predictor"] == "Counter"
    ]
    assert counted == [(number, number + 1) for number in range(4000)]
    doubled = [
        prediction["twice"] for prediction in predictions if prediction["predictor"] == "twice"
    ]
    assert doubled == [2 * number for number in range(4000)]


async def test_two_processes_share_and_end_orderly(start: Start) -> None:
    first, second = start(), start()
    client = sync_client(layer_servers()[0])

    def owners() -> set[Any]:
        names = [key(f"{{predictions}}:processor:{name}:lease") for name in ("Counter", "twice")]
        return set(client.mget(names))

    wait_until(lambda: None not in owners() and len(owners()) == 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(TIMEOUT) == 0
    wait_until(lambda: None not in owners() and len(owners()) == 1)
    publish_numbers(1)
    await until_predicted(2)
    second.send_signal(signal.SIGINT)
    assert second.wait(TIMEOUT) == 0


async def test_one_that_hangs_keeps_no_process(start: Start, data_dir: Path) -> None:
    streams(data_dir).write_text(
        "import realtime, threading, pathlib\n"
        "@realtime.predictor('events', from_start=True)\n"
        "def stuck(payloads):\n"
        f"    pathlib.Path({str(data_dir / 'stuck')!r}).touch()\n"
        "    threading.Event().wait()\n"
    )
    publish_numbers(1)
    process = start("stuck")
    await asyncio.to_thread(wait_until, (data_dir / "stuck").exists)
    process.terminate()
    assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nothing_of_this_name\n", "shop/streams.py:1: ModuleNotFoundError: No module"),
        ("x = 1\ny = = 2\n", "shop/streams.py:2: SyntaxError: invalid syntax"),
        (
            "import realtime\nrealtime.predictor('x')\n",
            "shop/streams.py:2: RuleError: source: expected one of",
        ),
        ("", "there are no predictors in the streams.py of any installed app"),
    ],
)
def test_a_wrong_streams_module_is_one_line(
    data_dir: Path, project: dict[str, str], text: str, error: str
) -> None:
    streams(data_dir).write_text(text)
    done = manage("run_predictors", data_dir=data_dir, **project)
    assert done.returncode == 1
    assert error in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unknown_name_or_module_is_one_line(data_dir: Path, project: dict[str, str]) -> None:
    done = manage("run_predictors", "three", data_dir=data_dir, **project)
    message = "CommandError: no predictor is named 'three' (there are: Counter, twice)\n"
    assert (done.returncode, done.stderr) == (1, message)
    done = manage("run_predictors", "--module", "shop.no", data_dir=data_dir, **project)
    assert done.returncode == 1
    assert done.stderr == "CommandError: ModuleNotFoundError: No module named 'shop.no'\n"
