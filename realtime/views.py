"""Pages and small JSON answers that Django serves: the dashboard, health, connection tokens."""

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect, ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from realtime.auth.connection_tokens import grant_of_user, issue
from realtime.protocol import ERROR_TEXTS, SUBSCRIPTION_TYPES, ErrorCode, format_timestamp
from realtime.sessions.node import get_node

# The types that the dashboard draws, and their headings.
CHARTS = (("metrics", "Metrics"), ("aggregations", "Aggregations"))
# The page shows what anyone may have published: nothing in it can become a script or be sent
# elsewhere (W3C, Content Security Policy Level 3).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self' {sockets}",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


@never_cache
@require_safe
@ensure_csrf_cookie
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show the live dashboard. Anyone gets the page; its data need a token or a login."""
    response = render(request, "realtime/dashboard.html", {"charts": CHARTS})
    # Older browsers do not take 'self' for this site's WebSockets.
    sockets = f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(sockets=sockets)
    return response


@never_cache
async def healthz(request: HttpRequest) -> JsonResponse:
    """Answer that the process is alive, without a look at anything else."""
    return JsonResponse({"status": "ok"})


@never_cache
async def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 if clients may be sent here, else 503 and why."""
    causes = await get_node().readiness()
    if not causes:
        return JsonResponse({"status": "ready"})
    response = JsonResponse({"status": "unavailable", "causes": causes}, status=503)
    # An answer, not a failure: Django would log an error for each.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@cache
def read_openapi() -> dict[str, Any]:
    """Return the description of what is served over HTTP, which every installation has."""
    text = files("realtime.http").joinpath("openapi.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=dict[str, Any])


@require_safe
async def openapi(request: HttpRequest) -> JsonResponse:
    """Return the OpenAPI description of this site."""
    return JsonResponse(read_openapi() | {"servers": [{"url": request.build_absolute_uri("/")}]})


@never_cache
@require_POST
@csrf_protect
def connection_token(request: HttpRequest) -> JsonResponse:
    """Give the logged-in user's page a token for its WebSocket: {token, expires_at, types}.

    Another site's page is refused by the CSRF check, and by Fetch Metadata (W3C).
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return _refusal(ErrorCode.FORBIDDEN, 403)
    if not request.user.is_authenticated:
        return _refusal(ErrorCode.AUTH_REQUIRED, 401)
    grant = grant_of_user(request.user)
    if grant is None:
        return _refusal(ErrorCode.FORBIDDEN, 403)
    token, expires_at = issue(request.user)
    return JsonResponse(
        {
            "token": token,
            "expires_at": format_timestamp(expires_at),
            "types": [kind for kind in SUBSCRIPTION_TYPES if kind in grant.types],
        }
    )


def _refusal(code: ErrorCode, status: int) -> JsonResponse:
    return JsonResponse({"error": ERROR_TEXTS[code], "code": code}, status=status)
