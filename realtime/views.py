"""What the app answers over HTTP."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

from realtime.node import get_node


@never_cache
async def healthz(request: HttpRequest) -> JsonResponse:
    """Say that the process is alive; it looks at nothing else."""
    return JsonResponse({"status": "ok"})


@never_cache
async def readyz(request: HttpRequest) -> JsonResponse:
    """Say whether clients may be sent here, and if not, why."""
    causes = await get_node().readiness()
    if not causes:
        return JsonResponse({"status": "ready"})
    response = JsonResponse({"status": "unavailable", "causes": causes}, status=503)
    # An answer, not a failure: Django would log an error for each.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
