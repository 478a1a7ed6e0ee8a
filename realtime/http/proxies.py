"""ASGI middleware that tells the application whose request it is, behind proxies or not.

How the address is found is in :mod:`realtime.protocol.addresses`; which proxies are trusted is
configured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from realtime.config import get_streaming_config
from realtime.protocol.addresses import TrustedProxies

FORWARDED_FOR = b"x-forwarded-for"
# What only a trusted proxy may say.
FORWARDED = (FORWARDED_FOR, b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")


class ForwardedAddress:
    """Puts the client's address into the scope; hides from it what an untrusted peer says.

    Without trusted proxies scopes stay as they are.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection."""
        proxies = _trusted(tuple(get_streaming_config().websocket.trusted_proxies))
        if proxies and scope["type"] in ("http", "websocket"):
            scope = _resolve(scope, proxies)
        await self._application(scope, receive, send)


@lru_cache(maxsize=8)
def _trusted(networks: tuple[str, ...]) -> TrustedProxies:
    return TrustedProxies(networks)


def _resolve(scope: dict[str, Any], proxies: TrustedProxies) -> dict[str, Any]:
    peer = scope.get("client")
    host = peer[0] if peer else None
    if not proxies.trusts(host):
        headers = [header for header in scope["headers"] if header[0] not in FORWARDED]
        return {**scope, "headers": headers}
    values = [v.decode("latin-1") for name, v in scope["headers"] if name == FORWARDED_FOR]
    client = proxies.client(host, values)
    if client == host:
        return scope
    # The port is the proxy's connection's: the client's is not known.
    return {**scope, "client": [client, 0]}
