"""What requests pass before they are served: whose they are, and under which name they ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from realtime.config import get_streaming_config
from realtime.protocol.origins import TrustedProxies

PROBE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
FORWARDED_FOR = b"x-forwarded-for"
# The headers that only a trusted proxy may set.
FORWARDED = (FORWARDED_FOR, b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")


class ForwardedAddress:
    """ASGI middleware: puts the client's address, as trusted proxies tell it, into the scope."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        proxies = _trusted(tuple(get_streaming_config().websocket.trusted_proxies))
        if proxies and scope["type"] in ("http", "websocket"):
            scope = _resolve(scope, proxies)
        await self._application(scope, receive, send)


_trusted = lru_cache(maxsize=8)(TrustedProxies)


def _resolve(scope: dict[str, Any], proxies: TrustedProxies) -> dict[str, Any]:
    """Return the scope with the client's address, as far as trusted proxies tell it."""
    peer = scope.get("client")
    host = peer[0] if peer else None
    if not proxies.trusts(host):
        headers = [header for header in scope["headers"] if header[0] not in FORWARDED]
        return {**scope, "headers": headers}
    values = [v.decode("latin-1") for name, v in scope["headers"] if name == FORWARDED_FOR]
    client = proxies.client(host, values)
    # The port would be that of the proxy's connection; the client's is not known.
    return scope if client == host else {**scope, "client": [client, 0]}


@sync_and_async_middleware
def any_host_for_probes(get_response: Callable[[HttpRequest], Any]) -> Callable[..., Any]:
    """Make the Django middleware that lets probes and Prometheus ask under any host name.

    They ask by addresses, which come and go. It must come before what looks at the host.
    """

    def answer(request: HttpRequest) -> Any:
        if request.path in PROBE_PATHS:
            # Django's own way to say it would be ALLOWED_HOSTS, which all other pages share.
            request.get_host = lambda: "localhost"  # type: ignore[method-assign]
        return get_response(request)  # or a coroutine that does

    return markcoroutinefunction(answer) if iscoroutinefunction(get_response) else answer
