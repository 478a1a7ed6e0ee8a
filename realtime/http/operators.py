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
from realtime.monitoring.snapshot import add_up, read_reports
from realtime.protocol import ERROR_TEXTS, ErrorCode
from realtime.publishing.outbox import count_waiting
from realtime.sessions.node import get_node
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
        node = get_node()
        await node.start()
        peer = Peer(node, request.META.get("REMOTE_ADDR", ""))
        grant = await peer.authenticate(secret.strip())
        if grant is None:
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return _error(ErrorCode.AUTH_REQUIRED, 401, challenge)
        return None if grant.can_view_stats else _error(ErrorCode.FORBIDDEN, 403)
    user = await request.auser()
    if user.is_active and getattr(user, "is_staff", False):
        return None
    if user.is_authenticated:
        return _error(ErrorCode.FORBIDDEN, 403)
    return _error(ErrorCode.AUTH_REQUIRED, 401, {"WWW-Authenticate": "Bearer"})


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
    processes = [msgspec.structs.asdict(snapshot) for snapshot in cluster]
    for numbers in processes:
        del numbers["distributions"]
    report: dict[str, Any] = node.report() | {"name": node.process.name}
    return JsonResponse({"process": report, "cluster": add_up(cluster) | {"by_process": processes}})


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
    try:
        outbox = await node.database.run(count_waiting)
        age = 0.0 if outbox.since is None else max(0.0, time.time() - outbox.since)
        text += expose_outbox(outbox.waiting, outbox.parked, age)
    except Unavailable as error:
        logger.warning("reading the outbox: %s", error)
    try:
        text += expose_processors(await read_reports())
    except Unavailable as error:
        logger.warning("reading how processors stand: %s", error)
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)
