"""Which browser origins may connect: patterns and how they match. Pure.

An origin is scheme, host and port (RFC 6454). A pattern is ``*`` (any origin), ``null`` (pages
without one, such as files), an origin (``https://app.example.com``), or an origin whose first
label is a wildcard (``https://*.example.com``: every subdomain, at any depth, not the domain
itself).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Origin = tuple[str, str, int]


def parse_origin(text: str) -> Origin | None:
    """Return (scheme, host, port) in lower case, or ``None`` if *text* is no origin."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if not scheme or not host or "@" in parts.netloc or parts.path or parts.query or parts.fragment:
        return None
    if text != text.strip() or any(character.isspace() for character in text):
        return None
    if port is None:
        port = DEFAULT_PORTS.get(scheme, 0)
    return scheme, host, port


def check_pattern(pattern: str) -> None:
    """Raise ``ValueError`` saying what an origin pattern looks like if this is none."""
    if pattern in {"*", "null"}:
        return
    origin = parse_origin(pattern)
    host = origin[1] if origin else ""
    if origin is None or "*" in host.removeprefix("*.") or host == "*":
        raise ValueError(
            f"{pattern!r} is no origin: expected scheme://host[:port], "
            "scheme://*.host[:port], null or *"
        )


def origin_allowed(origin: str | None, patterns: Iterable[str]) -> bool:
    """Tell whether a handshake with this Origin header may go on.

    No header means the client is no browser, so there is no page to protect: allowed. A header
    that is no origin is allowed by nothing, not even ``*``.
    """
    if origin is None:
        return True
    if origin == "null":
        return any(pattern in {"*", "null"} for pattern in patterns)
    parsed = parse_origin(origin)
    return parsed is not None and any(_matches(parsed, pattern) for pattern in patterns)


def _matches(origin: Origin, pattern: str) -> bool:
    if pattern == "*":
        return True
    allowed = parse_origin(pattern)
    if allowed is None or origin[0] != allowed[0] or origin[2] != allowed[2]:
        return False
    if allowed[1].startswith("*."):
        return origin[1].endswith(allowed[1][1:])
    return origin[1] == allowed[1]
