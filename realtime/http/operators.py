"""What operators and their programs read over HTTP: ``/api/stats`` and ``/metrics``.

For staff that is logged in, and for tokens that may see the statistics.
"""

from __future__ import annotations

import functools
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import redis
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from realtime.database import Unavailable
from realtime.monitoring.processors import read_reports
from realtime.monitoring.prometheus import (
    CONTENT_TYPE_LATEST,
    expose,
    expose_outbox,
    expose_processors,
)
from realtime.monitoring.snapshot import Figures, whole
from realtime.protocol import ERROR_TEXTS, ErrorCode
from realtime.publishing.outbox import look
from realtime.sessions.node import Node, get_node
from realtime.sessions.peer import RETRY_AFTER_UNAVAILABLE, Peer

logger = logging.getLogger(__name__)

View = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]


def for_operators(view: View) -> View:
    """Answer 401 to who does not say who it is, 403 to who may not see the statistics."""

    @functools.wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        try:
            refusal = await _refusal(request)
        except Unavailable:
            refusal = _error(ErrorCode.UNAVAILABLE, 503)
            refusal["Retry-After"] = str(RETRY_AFTER_UNAVAILABLE)
        return await view(request) if refusal is None else refusal

    return guarded


async def _refusal(request: HttpRequest) -> JsonResponse | None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return await _refusal_of_token(request, secret.strip())
    user = await request.auser()
    if user.is_active and getattr(user, "is_staff", False):
        return None
    if user.is_authenticated:
        return _error(ErrorCode.FORBIDDEN, 403)
    refusal = _error(ErrorCode.AUTH_REQUIRED, 401)
    refusal["WWW-Authenticate"] = "Bearer"
    return refusal


async def _refusal_of_token(request: HttpRequest, secret: str) -> JsonResponse | None:
    node = get_node()
    await node.start()
    grant = await Peer(node, request.META.get("REMOTE_ADDR", "")).authenticate(secret)
    if grant is None:
        refusal = _error(ErrorCode.AUTH_REQUIRED, 401)
        refusal["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        return refusal
    return None if grant.can_view_stats else _error(ErrorCode.FORBIDDEN, 403)


def _error(code: ErrorCode, status: int) -> JsonResponse:
    response = JsonResponse({"error": ERROR_TEXTS[code], "code": code}, status=status)
    # An answer, not a failure: Django would log an error for each.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@never_cache
@require_safe
@for_operators
async def stats(request: HttpRequest) -> JsonResponse:
    """Return this process's figures, those of each process, and the whole."""
    node = get_node()
    await node.start()
    cluster = await node.reporter.look_at_cluster()
    report: dict[str, Any] = node.report()
    return JsonResponse(
        {
            "process": report | {"name": node.process.name},
            "cluster": whole(cluster) | {"by_process": [_as_json(one) for one in cluster]},
        }
    )


def _as_json(figures: Figures) -> dict[str, Any]:
    names = (name for name in figures.__struct_fields__ if name != "distributions")
    return {name: getattr(figures, name) for name in names}


@never_cache
@require_safe
@for_operators
async def metrics(request: HttpRequest) -> HttpResponse:
    """Return the figures of this host's processes for Prometheus."""
    node = get_node()
    await node.start()
    host = socket.gethostname()
    text = expose([one for one in await node.reporter.look_at_cluster() if one.host == host])
    text += await _outbox(node) + await _processors()
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


async def _outbox(node: Node) -> bytes:
    """Return the outbox's figures, if the database answers."""
    try:
        found = await node.database.run(look)
    except Unavailable as error:
        logger.warning("looking into the outbox: %s", error)
        return b""
    age = 0.0 if found.since is None else max(0.0, time.time() - found.since)
    return expose_outbox(found.waiting, found.parked, age)


async def _processors() -> bytes:
    """Return how processors stand, if the channel layer answers."""
    try:
        return expose_processors(await read_reports())
    except (redis.RedisError, OSError) as error:
        logger.warning("reading how processors stand: %s", error)
        return b""
