"""Django middleware that lets probes and Prometheus ask under any host name.

They ask by address, which ``ALLOWED_HOSTS`` cannot name where addresses come and go. Nothing in
what they are answered is made of the name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


@sync_and_async_middleware
def any_host_for_probes(get_response: Callable[[HttpRequest], Any]) -> Callable[..., Any]:
    """Make the middleware; it must come before all that look at the host."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponse:
            return await cast(Awaitable[HttpResponse], get_response(_for_any_host(request)))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponse:
        return cast(HttpResponse, get_response(_for_any_host(request)))

    return answer


def _for_any_host(request: HttpRequest) -> HttpRequest:
    if request.path in PATHS:
        request.get_host = lambda: "localhost"  # type: ignore[method-assign]
    return request
