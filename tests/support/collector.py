"""An OpenTelemetry collector for tests: takes spans over HTTP, and remembers them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support import wait_until


class Span(NamedTuple):
    """A span as it came; times in nanoseconds since 1970, ids as bytes."""

    name: str
    kind: int
    trace: bytes
    id: bytes
    parent: bytes
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collector:
    """The spans that came, and where to send them."""

    def __init__(self, port: int) -> None:
        self.variables = {
            "STREAMING_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        self._spans: list[Span] = []

    def take(self, body: bytes) -> None:
        """Remember what one request brings."""
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(part.resource.attributes)
            for scope in part.scope_spans:
                assert scope.scope.name == "realtime", scope.scope
                self._spans += [_span(span, resource) for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        """Return the spans of a name, in the order of their beginnings."""
        return sorted((span for span in self._spans if span.name == name), key=lambda s: s.start)

    def wait_for(self, name: str, count: int) -> list[Span]:
        """Return so many spans of a name when they have come."""
        wait_until(lambda: len(self.named(name)) >= count)
        found = self.named(name)
        assert len(found) == count, found
        return found


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        span.kind,
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _values(span.attributes),
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def _listening(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer requests; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            reply = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # its process may have been killed
                self.wfile.write(reply)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector."""
    collector: Collector

    def answer(body: bytes) -> bytes:
        collector.take(body)
        response: bytes = ExportTraceServiceResponse().SerializeToString()
        return response

    with _listening(answer) as port:
        collector = Collector(port)
        yield collector


@contextmanager
def hanging_collector() -> Iterator[Collector]:
    """Run a collector that takes requests and never answers them."""
    over = threading.Event()

    def answer(body: bytes) -> bytes:
        over.wait()
        return b""

    with _listening(answer) as port:
        try:
            yield Collector(port)
        finally:
            over.set()
