"""What a group message says of its origin, and what spans there are of what comes together."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from realtime.delivery.feed import Feed, Lost, ReceivedBatch
from realtime.hub.message import Message
from realtime.log.contract import MemoryLog
from realtime.monitoring.tracing import LONGEST_FIELD, TraceOrigin, Tracing
from realtime.protocol import Position

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
# The example of W3C Trace Context, section 3.2.
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FIRST = Position("an epoch", 7)


class Recorder(Tracing):
    """Makes spans and keeps them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(provider.get_tracer("realtime"))

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have ended."""
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Recorder:
    """Where spans are kept."""
    return Recorder()


def deliver(recorder: Recorder, *origins: TraceOrigin | None) -> tuple[ReadableSpan, ...]:
    """Deliver messages of some origins together."""
    traced = [origin for origin in origins if origin is not None]
    with recorder.delivery("events", 9, traced, "a process") as delivery:
        delivery.writes = 3
    return recorder.spans()


def test_a_message_with_a_trace(recorder: Recorder) -> None:
    before = time.time_ns()
    message = {"type": "stream.batch", "traceparent": TRACEPARENT, "tracestate": "a=1,b=2"}
    origin = recorder.origin(message, FIRST, 5)
    assert origin is not None and before <= origin.received <= time.time_ns()
    [span] = deliver(recorder, origin)
    assert span.context is not None and span.parent is not None and span.attributes is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, PARENT)
    assert span.context.trace_state.to_header() == "a=1,b=2"
    assert span.start_time == origin.received
    assert span.attributes["messaging.batch.message_count"] == 5
    assert span.attributes["realtime.offset"] == 7
    assert span.attributes["realtime.writes"] == 3


def test_a_trace_that_is_not_recorded(recorder: Recorder) -> None:
    origin = recorder.origin({"traceparent": TRACEPARENT[:-1] + "0"}, FIRST, 1)
    assert deliver(recorder, origin) == ()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"traceparent": ""},
        {"traceparent": None},
        {"traceparent": 7},
        {"traceparent": [TRACEPARENT]},
        {"traceparent": {"a": 1}},
        {"traceparent": b"\xff"},
        {"traceparent": "nonsense"},
        {"traceparent": TRACEPARENT + "-more"},
        {"traceparent": TRACEPARENT.replace("4bf92f", "zzzzzz")},
        {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"},
        {"traceparent": "x" * (LONGEST_FIELD + 1)},
        {"traceparent": "x" * 10_000_000},
        {"tracestate": "a=1"},
        {"traceparent": TRACEPARENT, "tracestate": 7},
        {"traceparent": TRACEPARENT, "tracestate": "a" * (LONGEST_FIELD + 1)},
    ],
    ids=lambda message: str(message)[:50],
)
def test_what_is_no_trace_begins_one(recorder: Recorder, message: dict[str, Any]) -> None:
    [span] = deliver(recorder, recorder.origin(message, FIRST, 1))
    assert span.parent is None


def test_a_state_that_cannot_be_read_is_dropped(recorder: Recorder) -> None:
    message = {"traceparent": TRACEPARENT, "tracestate": "=, ,\x00=\n"}
    [span] = deliver(recorder, recorder.origin(message, FIRST, 1))
    assert span.context is not None and span.context.trace_id == TRACE


def test_messages_of_several_publishers_at_once(recorder: Recorder) -> None:
    origins = [
        recorder.origin({"traceparent": TRACEPARENT.replace("4bf92f", start)}, FIRST, count)
        for count, start in enumerate(("aaaaaa", "bbbbbb"), 1)
    ]
    spans = deliver(recorder, *origins)
    traces = [f"{span.context.trace_id:032x}"[:6] for span in spans if span.context]
    assert traces == ["aaaaaa", "bbbbbb"]
    assert [(span.attributes or {})["messaging.batch.message_count"] for span in spans] == [1, 2]


def test_a_delivery_that_fails(recorder: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), recorder.delivery("events", 1, [], "a process"):
        raise ZeroDivisionError
    [span] = recorder.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].name == "exception"


async def test_only_what_is_delivered_from_the_group_has_an_origin(recorder: Recorder) -> None:
    delivered: list[tuple[list[int], list[int]]] = []

    class Handler:
        async def deliver(
            self, kind: str, messages: list[Message], origins: list[TraceOrigin]
        ) -> None:
            delivered.append(([m.offset for m in messages], [o.first.offset for o in origins]))

        def tell_lost(self, kind: str, lost: Lost) -> None:
            raise AssertionError(lost)

        def count_repaired(self, kind: str, count: int) -> None:
            raise AssertionError(count)

    log = MemoryLog()
    feed = Feed("events", log, Handler())
    await feed.start()
    epoch = feed.position.epoch

    def batch(offset: int) -> ReceivedBatch:
        position = Position(epoch, offset)
        origin = recorder.origin({"traceparent": TRACEPARENT}, position, 1)
        return ReceivedBatch(position, [Message("events", b"{}", time.time(), position)], origin)

    await feed.take([batch(1), batch(1), batch(2)])  # one is repeated
    assert delivered == [([1, 2], [1, 2])]
