"""Spans from publishing to delivery, across processes, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.publishing.publication import MAX_BATCH_MESSAGES
from realtime.testing.server import manage
from tests.support import ROOT, environment, running
from tests.support.collector import Collector, Span, hanging_collector, running_collector

# Of the OTLP's span kinds.
PRODUCER, CONSUMER = 4, 5
NOWHERE = "http://127.0.0.1:1"

# As if the channel layer had lost what was published.
APPEND = """
import json, time
from realtime.log import get_log
from realtime.log.contract import Append, Batch, pack
bodies = [json.dumps(payload).encode() for payload in payloads]
get_log().append(Append(kind, [Batch(bodies, pack(bodies))]))
"""
SEND = """
from asgiref.sync import async_to_sync
layer = get_channel_layer()
async_to_sync(layer.group_send)("realtime." + kind, {"type": "stream.message", "payload": {}})
"""
# A program with spans of its own, some of which are left out.
IN_A_REQUEST = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider(sampler=getattr(sampling, sampler))
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with trace.get_tracer("program").start_as_current_span("request"):
    publish_many(kind, [{"n": 1}])
result = [[span.name, span.context.trace_id, span.context.span_id,
           span.parent.span_id if span.parent else 0] for span in exporter.get_finished_spans()]
"""
# A folder of this in PYTHONPATH: as if OpenTelemetry were not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Where the spans go."""
    with running_collector() as collector:
        yield collector


def path(spans: list[Span]) -> set[tuple[bytes, bytes]]:
    """Return of which trace spans are, and whose children."""
    return {(span.trace, span.parent) for span in spans}


async def test_a_trace_leads_from_the_publisher_to_every_process(
    data_dir: Path, collector: Collector
) -> None:
    with (
        running(data_dir, **collector.variables) as first,
        running(data_dir, **collector.variables) as second,
    ):
        secret = first.new_token()
        async with (
            first.connect(secret) as one,
            first.connect(secret) as two,
            second.connect(secret) as three,
        ):
            for page in (one, two, three):
                await page.subscribe("events")
            before = time.time_ns()
            [position] = first.publish("events", {"event_type": "login"})
            for page in (one, two, three):
                await page.assert_positions([position])
            [published] = collector.wait_for("publish events", 1)
            delivered = collector.wait_for("deliver events", 2)
    place = {"realtime.epoch": position["epoch"], "realtime.offset": position["offset"]}
    assert (published.kind, published.parent, published.failed) == (PRODUCER, b"", False)
    assert published.attributes == place | {
        "messaging.system": "realtime",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "events",
        "messaging.message.body.size": len(b'{"event_type":"login"}'),
    }
    assert published.resource["service.name"] == "realtime"
    assert before <= published.start <= published.end <= time.time_ns()
    assert path(delivered) == {(published.trace, published.id)}
    for span in delivered:
        assert span.kind == CONSUMER and published.start <= span.start <= span.end
        process = span.attributes.pop("messaging.client.id")
        writes = span.attributes.pop("realtime.writes")
        assert span.attributes == place | {
            "messaging.system": "realtime",
            "messaging.operation.name": "deliver",
            "messaging.operation.type": "process",
            "messaging.destination.name": "events",
            "messaging.batch.message_count": 1,
        }
        [server] = [s for s in (first, second) if f"-{s.process.pid}-" in process]
        assert writes == (2 if server is first else 1)


async def test_many_messages_are_one_publication(data_dir: Path, collector: Collector) -> None:
    with running(data_dir, OTEL_SERVICE_NAME="flights", **collector.variables) as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("metrics")
            positions = server.publish("metrics", *({"n": n} for n in range(2500)))
            await page.assert_positions(positions)
            [published] = collector.wait_for("publish metrics", 1)
            delivered = collector.wait_for("deliver metrics", 3)
    assert published.attributes["messaging.batch.message_count"] == 2500
    assert "messaging.message.body.size" not in published.attributes
    assert published.resource["service.name"] == "flights"
    assert path(delivered) == {(published.trace, published.id)}
    parts = [
        (span.attributes["realtime.offset"], span.attributes["messaging.batch.message_count"])
        for span in delivered
    ]
    most = MAX_BATCH_MESSAGES
    assert sorted(parts) == [(1, most), (1 + most, most), (1 + 2 * most, 2500 - 2 * most)]


async def test_what_comes_without_a_trace_begins_one(data_dir: Path, collector: Collector) -> None:
    with running(data_dir, **collector.variables) as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("events")
            server.administer(APPEND, kind="events", payloads=[{"n": 1}, {"n": 2}])
            for number in (1, 2):
                await page.assert_data("events", {"n": number})
            server.administer(SEND, kind="events")
            await page.assert_data("events", {})
            repaired, sent = collector.wait_for("deliver events", 2)
    assert repaired.parent == sent.parent == b"" and repaired.trace != sent.trace
    assert repaired.attributes["messaging.batch.message_count"] == 2
    assert repaired.attributes["realtime.writes"] == sent.attributes["realtime.writes"] == 1


@pytest.mark.parametrize("sampler", ["ALWAYS_ON", "ALWAYS_OFF"])
async def test_a_program_with_traces_of_its_own(
    data_dir: Path, collector: Collector, sampler: str
) -> None:
    with running(data_dir, **collector.variables) as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("events")
            made = server.administer(IN_A_REQUEST, kind="events", sampler=sampler)
            await page.assert_data("events", {"n": 1})
            # What is not recorded by its publisher is by nobody.
            server.administer(SEND, kind="events")
            await page.assert_data("events", {})
            spans = collector.wait_for("deliver events", 2 if sampler == "ALWAYS_ON" else 1)
    assert collector.named("publish events") == []
    if sampler == "ALWAYS_OFF":
        assert made == [] and spans[0].parent == b""
        return
    (_, trace, published, parent), (name, _, request, _) = made
    assert name == "request" and parent == request
    delivered = spans[0]
    assert int.from_bytes(delivered.trace) == trace
    assert int.from_bytes(delivered.parent) == published


async def test_only_some_processes_trace(data_dir: Path, collector: Collector) -> None:
    with (
        running(data_dir, **collector.variables) as tracing,
        running(data_dir) as plain,
    ):
        secret = plain.new_token()
        async with tracing.connect(secret) as one, plain.connect(secret) as two:
            for page in (one, two):
                await page.subscribe("events")
            for publisher in (tracing, plain):
                positions = publisher.publish("events", {"n": 1}, {"n": 2})
                for page in (one, two):
                    await page.assert_positions(positions)
            [published] = collector.wait_for("publish events", 1)
            traced, untraced = collector.wait_for("deliver events", 2)
    assert (traced.trace, traced.parent) == (published.trace, published.id)
    assert untraced.parent == b"" and untraced.trace != published.trace


def test_a_publication_that_fails(data_dir: Path, collector: Collector) -> None:
    variables = collector.variables | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    done = manage("publish", "events", "{}", data_dir=data_dir, root=ROOT, **variables)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    [span] = collector.wait_for("publish events", 1)
    assert span.failed and span.attributes["error.type"] == "PublishError"
    assert "realtime.offset" not in span.attributes


def test_the_last_spans_are_sent_at_the_end(data_dir: Path, collector: Collector) -> None:
    with running(data_dir):
        variables = collector.variables | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
        done = manage("publish", "events", "{}", data_dir=data_dir, root=ROOT, **variables)
        assert (done.returncode, done.stderr) == (0, "")
    collector.wait_for("publish events", 1)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_collector_that_does_not_answer_holds_nobody_up(
    data_dir: Path, is_there: bool
) -> None:
    with hanging_collector() as collector:
        patient = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600"}
        if not is_there:
            patient["OTEL_EXPORTER_OTLP_ENDPOINT"] = NOWHERE
        variables = collector.variables | patient
        with running(data_dir, **variables) as server:
            async with server.connect(server.new_token()) as page:
                await page.subscribe("events")
                positions = server.publish("events", *({"n": n} for n in range(10)))
                await page.assert_positions(positions)
            done = manage("publish", "events", "{}", data_dir=data_dir, root=ROOT, **variables)
            assert done.returncode == 0 and "Traceback" not in done.stderr
        assert server.process.returncode == 0


# How it is switched on


def without_opentelemetry(folder: Path) -> dict[str, str]:
    """Return the variable with which Python finds no OpenTelemetry."""
    (folder / "sitecustomize.py").write_text(WITHOUT)
    return {"PYTHONPATH": str(folder)}


def test_without_the_packages_it_is_said(tmp_path: Path) -> None:
    variables = without_opentelemetry(tmp_path)
    done = manage("check", data_dir=tmp_path, root=ROOT, STREAMING_TRACING="true", **variables)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: STREAMING_TRACING=true: OpenTelemetry is not installed: "
        "pip install -r requirements-tracing.txt"
    )


async def test_without_tracing_nothing_is_needed(tmp_path: Path) -> None:
    with running(tmp_path, **without_opentelemetry(tmp_path)) as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("events")
            await page.assert_positions(server.publish("events", {"n": 1}))


def test_without_tracing_nothing_is_imported(data_dir: Path) -> None:
    # redis-py imports some of the rest.
    program = (
        "import sys, django; django.setup(); import streaming_site.asgi, realtime.sessions.node;"
        "sys.exit(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    settings = {"DJANGO_SETTINGS_MODULE": "streaming_site.settings"}
    variables = environment(data_dir, **settings) | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=variables).returncode == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"STREAMING_TRACING": "perhaps"},
            "STREAMING_TRACING='perhaps': input should be a valid boolean, unable to interpret "
            "input (allowed: true or false; default false)",
        ),
        (
            {"STREAMING_TRACING": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': not supported "
            "(allowed: http/protobuf; default http/protobuf)",
        ),
    ],
)
def test_values_that_there_are_not(data_dir: Path, variables: dict[str, str], message: str) -> None:
    done = manage("check", data_dir=data_dir, root=ROOT, **variables)
    assert (done.returncode, done.stderr.strip()) == (1, f"error: {message}")
