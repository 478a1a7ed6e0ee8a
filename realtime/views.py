"""What the app answers over HTTP."""

from django.http import HttpRequest, JsonResponse


async def healthz(request: HttpRequest) -> JsonResponse:
    """Say that the process is alive; it looks at nothing else."""
    return JsonResponse({"status": "ok"})
