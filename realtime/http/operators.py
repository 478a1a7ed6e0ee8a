"""Numbers for operators and their programs over HTTP: ``/api/stats`` and ``/metrics``.

For staff that is logged in, and for tokens that may view the statistics.
"""

from __future__ import annotations

import functools
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from realtime.database import Unavailable
from realtime.monitoring.prometheus import expose, expose_outbox, expose_processors
from realtime.monitoring.snapshot import Snapshot, add_up, read_reports
from realtime.protocol import ERROR_TEXTS, ErrorCode
from realtime.publishing.outbox import count_waiting
from realtime.sessions.node import Node, get_node
from realtime.sessions.subscriber import RETRY_AFTER_UNAVAILABLE, Peer

logger = logging.getLogger(__name__)

View = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]


def for_operators(view: View) -> View:
    """Answer 401 to a request without valid credentials, 403 if they do not allow statistics."""

    @functools.wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        try:
            refusal = await _refusal(request)
        except Unavailable:
            retry_after = str(RETRY_AFTER_UNAVAILABLE)
            refusal = _error(ErrorCode.UNAVAILABLE, 503, {"Retry-After": retry_after})
        return await view(request) if refusal is None else refusal

    return guarded


async def _refusal(request: HttpRequest) -> JsonResponse | None:
    """Return the answer to a request that may not see the statistics, ``None`` if it may."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return await _refusal_of_token(request, secret.strip())
    user = await request.auser()
    if user.is_active and getattr(user, "is_staff", False):
        return None
    if user.is_authenticated:
        return _error(ErrorCode.FORBIDDEN, 403)
    return _error(ErrorCode.AUTH_REQUIRED, 401, {"WWW-Authenticate": "Bearer"})


async def _refusal_of_token(request: HttpRequest, secret: str) -> JsonResponse | None:
    node = get_node()
    await node.start()
    grant = await Peer(node, request.META.get("REMOTE_ADDR", "")).authenticate(secret)
    if grant is None:
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return _error(ErrorCode.AUTH_REQUIRED, 401, challenge)
    return None if grant.can_view_stats else _error(ErrorCode.FORBIDDEN, 403)


def _error(code: ErrorCode, status: int, headers: dict[str, str] | None = None) -> JsonResponse:
    body = {"error": ERROR_TEXTS[code], "code": code}
    response = JsonResponse(body, status=status, headers=headers)
    # Django would log each of these answers as an error, but nothing has failed.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@never_cache
@require_safe
@for_operators
async def stats(request: HttpRequest) -> JsonResponse:
    """Return this process's numbers, those of each process, and the totals."""
    node = get_node()
    await node.start()
    cluster = await node.reporter.look_at_cluster()
    report: dict[str, Any] = node.report()
    return JsonResponse(
        {
            "process": report | {"name": node.process.name},
            "cluster": add_up(cluster) | {"by_process": list(map(_as_json, cluster))},
        }
    )


def _as_json(snapshot: Snapshot) -> dict[str, Any]:
    numbers = msgspec.structs.asdict(snapshot)
    del numbers["distributions"]
    return numbers


@never_cache
@require_safe
@for_operators
async def metrics(request: HttpRequest) -> HttpResponse:
    """Return the numbers of this host's processes for Prometheus."""
    node = get_node()
    await node.start()
    host = socket.gethostname()
    cluster = await node.reporter.look_at_cluster()
    text = expose([snapshot for snapshot in cluster if snapshot.host == host])
    text += await _outbox(node) + await _processors()
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


async def _outbox(node: Node) -> bytes:
    """Return the numbers of the outbox, if the database answers."""
    try:
        outbox = await node.database.run(count_waiting)
    except Unavailable as error:
        logger.warning("reading the outbox: %s", error)
        return b""
    age = 0.0 if outbox.since is None else max(0.0, time.time() - outbox.since)
    return expose_outbox(outbox.waiting, outbox.parked, age)


async def _processors() -> bytes:
    """Return the numbers of processors, if the channel layer answers."""
    try:
        return expose_processors(await read_reports())
    except Unavailable as error:
        logger.warning("reading how processors stand: %s", error)
        return b""
