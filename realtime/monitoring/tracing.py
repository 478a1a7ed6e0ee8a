"""OpenTelemetry spans from publishing to delivery, for sites with ``STREAMING_TRACING=true``.

A publisher's span travels with its messages through the group, as W3C Trace Context, and each
process that delivers them adds a span to the same trace. Names and attributes are those of
OpenTelemetry's semantic conventions for messaging. Knows nothing of how messages are sent.
OpenTelemetry is imported only where tracing is on, since it need not be installed elsewhere.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
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


def check_installed() -> None:
    """Raise :class:`ConfigurationError` if tracing cannot be switched on."""
    packages = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        is_installed = all(map(find_spec, packages))
    except ModuleNotFoundError:  # not even the package that a package is in
        is_installed = False
    if not is_installed:
        raise ConfigurationError(
            "STREAMING_TRACING=true: OpenTelemetry is not installed: "
            "pip install -r requirements-tracing.txt"
        )


class TraceOrigin(NamedTuple):
    """The publisher's span of messages that travelled together.

    ``received`` is in nanoseconds since 1970, ``first`` the position of the first of ``messages``
    messages.
    """

    context: Context
    received: int
    first: Position
    messages: int


class PublicationSpan:
    """A publication under way. ``carried`` is what its messages carry: empty if tracing is off."""

    def __init__(self, carried: Mapping[str, str], span: Span | None = None) -> None:
        self.carried = carried
        self._span = span

    def appended(self, first: Position) -> Position:
        """Note the position of the first message in the log; return it."""
        if self._span is not None:
            self._span.set_attributes(_place(first))
        return first


class Tracing:
    """Makes the spans of publications and deliveries with one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._span_kinds = SpanKind
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def publishing(self, kind: str, bodies: Sequence[bytes]) -> Iterator[PublicationSpan]:
        """Give a publication a span: the child of the program's current span."""
        attributes = _attributes("publish", "send", kind)
        if len(bodies) == 1:
            attributes["messaging.message.body.size"] = len(bodies[0])
        else:
            attributes["messaging.batch.message_count"] = len(bodies)
        with self._tracer.start_as_current_span(
            f"publish {kind}", kind=self._span_kinds.PRODUCER, attributes=attributes
        ) as span:
            carried: dict[str, str] = {}
            self._propagator.inject(carried)
            try:
                yield PublicationSpan(carried, span)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                raise

    def origin(self, message: Mapping[str, Any], first: Position, count: int) -> TraceOrigin | None:
        """Return where a group message comes from; ``None`` if it does not say."""
        carried = {name: message[name] for name in TRACE_FIELDS if name in message}
        if not carried or not all(
            isinstance(value, str) and len(value) <= LONGEST_FIELD for value in carried.values()
        ):
            return None
        return TraceOrigin(self._propagator.extract(carried), time.time_ns(), first, count)

    @contextmanager
    def delivery(
        self, kind: str, count: int, origins: Sequence[TraceOrigin], process: str
    ) -> Iterator[SimpleNamespace]:
        """Give messages that are delivered together their spans: one for each origin.

        Messages from the log, and from a publisher that is not traced, have none; if all have
        none, there is one span, which begins a trace. The caller sets ``writes`` of the result, the
        number of writes to connections.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import StatusCode

        origins = origins or [TraceOrigin(Context(), time.time_ns(), Position("", 0), count)]
        spans = [self._start_delivery(kind, origin, process) for origin in origins]
        delivery = SimpleNamespace(writes=0)
        try:
            yield delivery
        except Exception as error:
            for span in spans:
                span.record_exception(error)
                span.set_status(StatusCode.ERROR, str(error))
            raise
        finally:
            for span in spans:
                span.set_attribute("realtime.writes", delivery.writes)
                span.end()

    def _start_delivery(self, kind: str, origin: TraceOrigin, process: str) -> Span:
        attributes = _attributes("deliver", "process", kind)
        attributes["messaging.client.id"] = process
        attributes["messaging.batch.message_count"] = origin.messages
        if origin.first.epoch:
            attributes |= _place(origin.first)
        name, span_kind = f"deliver {kind}", self._span_kinds.CONSUMER
        return self._tracer.start_span(
            name, origin.context, span_kind, attributes, start_time=origin.received
        )


def _attributes(name: str, operation: str, kind: str) -> dict[str, Any]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": operation,
        "messaging.destination.name": kind,
    }


def _place(first: Position) -> dict[str, Any]:
    return {"realtime.epoch": first.epoch, "realtime.offset": first.offset}


_untraced: AbstractContextManager[PublicationSpan] = nullcontext(PublicationSpan({}))
_setting_up = threading.Lock()


def get_tracing() -> Tracing | None:
    """Return the maker of spans; ``None`` if tracing is off."""
    if not settings.TRACING:
        return None
    with _setting_up:
        return _set_up()


def publishing(kind: str, bodies: Sequence[bytes]) -> AbstractContextManager[PublicationSpan]:
    """Give a publication a span, if tracing is on."""
    tracing = get_tracing()
    return _untraced if tracing is None else tracing.publishing(kind, bodies)


@cache
def _set_up() -> Tracing:
    """Return a maker of spans, with the program's own provider of tracers or with one made here."""
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(_make_provider())
    return Tracing(trace.get_tracer("realtime"))


def _make_provider() -> TracerProvider:
    """Return a provider that the OTEL_* variables configure.

    At the end of the process it sends the last spans, without waiting long for a collector.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SYSTEM}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    ending = threading.Event()

    def shut_down() -> None:
        ending.wait()
        provider.shutdown()

    # Started now, since no thread can be started at exit (Python 3.12).
    thread = threading.Thread(target=shut_down, name="tracing", daemon=True)
    thread.start()
    # At exit the last one is called first.
    atexit.register(thread.join, FLUSH_TIMEOUT)
    atexit.register(ending.set)
    return provider
