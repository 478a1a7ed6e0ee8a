"""OpenTelemetry spans from publishing to delivery, for sites with ``STREAMING_TRACING=true``.

A publisher's span travels with its messages through the group, as W3C Trace Context, and each
process that delivers them adds a span to the same trace. Names and attributes are those of
OpenTelemetry's semantic conventions for messaging. Knows spans, nothing of how messages are sent;
OpenTelemetry is imported only where tracing is on, since others need not have it.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings

from realtime.config import ConfigurationError
from realtime.protocol import Position

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SYSTEM = "realtime"
# The keys of a group message that hold a trace (W3C Trace Context), and the longest value.
TRACE_FIELDS = ("traceparent", "tracestate")
LONGEST_FIELD = 512
# Seconds for which the end of a process waits until its last spans are sent.
FLUSH_TIMEOUT = 2.0
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def check_installed() -> None:
    """Raise :class:`ConfigurationError` if tracing cannot be switched on."""
    for package in _PACKAGES:
        try:
            found = find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigurationError(
                "STREAMING_TRACING=true: OpenTelemetry is not installed: "
                "pip install -r requirements-tracing.txt"
            )


class Origin(NamedTuple):
    """Where messages that travelled together come from: the publisher's span.

    ``received`` is in nanoseconds since 1970, ``first`` the position of the first of so many.
    """

    context: Context
    received: int
    first: Position
    messages: int


class Traced:
    """A publication under way: what its messages carry, nothing if tracing is off."""

    def __init__(self, carried: Mapping[str, str], span: Span | None = None) -> None:
        self.carried = carried
        self._span = span

    def appended(self, first: Position) -> Position:
        """Note where the messages are in the log."""
        if self._span is not None:
            self._span.set_attributes(_place(first))
        return first


class Tracing:
    """Makes the spans."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._kinds = SpanKind
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def publishing(self, kind: str, bodies: Sequence[bytes]) -> Iterator[Traced]:
        """Give a publication a span, the child of what the program does now."""
        attributes = _attributes("publish", "send", kind)
        if len(bodies) == 1:
            attributes["messaging.message.body.size"] = len(bodies[0])
        else:
            attributes["messaging.batch.message_count"] = len(bodies)
        with self._tracer.start_as_current_span(
            f"publish {kind}", kind=self._kinds.PRODUCER, attributes=attributes
        ) as span:
            carried: dict[str, str] = {}
            self._propagator.inject(carried)
            try:
                yield Traced(carried, span)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                raise

    def origin(self, message: Mapping[str, Any], first: Position, count: int) -> Origin | None:
        """Return where a group message comes from; ``None`` if it does not say."""
        carried = {name: message[name] for name in TRACE_FIELDS if name in message}
        if not carried or not all(map(_is_field, carried.values())):
            return None
        return Origin(self._propagator.extract(carried), time.time_ns(), first, count)

    def delivery(self, kind: str, count: int, origins: Sequence[Origin], process: str) -> Delivery:
        """Begin the spans of messages that are delivered together.

        One for each origin; if there is none, since they come from the log or from a publisher
        that is not traced, one that begins a trace.
        """
        from opentelemetry.context import Context

        attributes = _attributes("deliver", "process", kind) | {"messaging.client.id": process}
        if not origins:
            origins = [Origin(Context(), time.time_ns(), Position("", 0), count)]
        return Delivery(
            [
                self._tracer.start_span(
                    f"deliver {kind}",
                    origin.context,
                    self._kinds.CONSUMER,
                    attributes
                    | {"messaging.batch.message_count": origin.messages}
                    | (_place(origin.first) if origin.first.epoch else {}),
                    start_time=origin.received,
                )
                for origin in origins
            ]
        )


class Delivery:
    """Messages that are being written to clients, and the spans of that."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        # To how many clients' connections something was written, of all that goes out together.
        self.writes = 0

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from opentelemetry.trace import StatusCode

        for span in self._spans:
            span.set_attribute("realtime.writes", self.writes)
            if isinstance(error, Exception):
                span.record_exception(error)
                span.set_status(StatusCode.ERROR, str(error))
            span.end()


def _attributes(name: str, operation: str, kind: str) -> dict[str, Any]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": operation,
        "messaging.destination.name": kind,
    }


def _place(first: Position) -> dict[str, Any]:
    return {"realtime.epoch": first.epoch, "realtime.offset": first.offset}


def _is_field(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_FIELD


_untraced: AbstractContextManager[Traced] = nullcontext(Traced({}))
_setting_up = threading.Lock()


def get_tracing() -> Tracing | None:
    """Return what makes spans; ``None`` if tracing is off."""
    if not settings.TRACING:
        return None
    with _setting_up:
        return _set_up()


def publishing(kind: str, bodies: Sequence[bytes]) -> AbstractContextManager[Traced]:
    """Trace a publication, if tracing is on."""
    tracing = get_tracing()
    return _untraced if tracing is None else tracing.publishing(kind, bodies)


@cache
def _set_up() -> Tracing:
    """Use the program's own provider of tracers; if it has none, one that sends to a collector."""
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(_make_provider())
    return Tracing(trace.get_tracer("realtime"))


def _make_provider() -> TracerProvider:
    """Return a provider that the OTEL_* variables configure."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SYSTEM}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _shut_down_at_exit(provider)
    return provider


def _shut_down_at_exit(provider: TracerProvider) -> None:
    """Have the last spans sent when the process ends, but not wait long for a collector."""
    ending = threading.Event()

    def shut_down() -> None:
        ending.wait()
        provider.shutdown()

    # Now, since no thread can be started at an exit (Python 3.12).
    thread = threading.Thread(target=shut_down, name="tracing", daemon=True)
    thread.start()

    def end() -> None:
        ending.set()
        thread.join(FLUSH_TIMEOUT)

    atexit.register(end)
