"""Where a client comes from: its page's origin, and its address behind proxies. Pure.

An origin is scheme, host and port (RFC 6454). A pattern is ``*`` (any origin), ``null`` (pages
without one, such as files), an origin (``https://app.example.com``), or an origin whose first
label is a wildcard (``https://*.example.com``: every subdomain, at any depth, not the domain
itself).

Anyone can send ``X-Forwarded-For``. Each proxy appends the address it was called from, so entries
are believed from the right, as long as trusted proxies wrote them (MDN, "X-Forwarded-For").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
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


# Addresses

# What stands for the other end of a Unix socket among trusted proxies.
UNIX = "unix"
# An IPv6 customer has at least a /64 (RFC 6177), so that is what counts as one address.
IPV6_PREFIX = 64


def check_network(text: str) -> None:
    """Raise ``ValueError`` unless this is an address, a network in CIDR notation or ``unix``."""
    if text == UNIX:
        return
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r}: {error}; expected an address, a network such as 10.0.0.0/8, or unix"
        ) from None


class TrustedProxies:
    """The networks from which ``X-Forwarded-For`` is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        texts = set(networks)
        self._trusts_unix = UNIX in texts
        self._networks = [ip_network(text) for text in texts - {UNIX}]

    def __bool__(self) -> bool:
        """Whether any proxy is trusted."""
        return self._trusts_unix or bool(self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Tell whether a peer is a trusted proxy; ``None`` is a Unix socket's."""
        if peer is None:
            return self._trusts_unix
        address = _parse(peer)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )

    def client(self, peer: str | None, forwarded_for: Sequence[str]) -> str | None:
        """Return the address of the client whose connection comes from *peer*.

        *forwarded_for* are the values of the ``X-Forwarded-For`` headers in their order. An entry
        that is no address ends the search: anybody may have written those before it.
        """
        client = peer
        entries = [entry for value in forwarded_for for entry in value.split(",")]
        while entries and self.trusts(client):
            address = _parse(_without_port(entries.pop().strip()))
            if address is None:
                break
            client = str(address)
        return client


def address_key(address: str) -> str:
    """Return what limits count an address as: itself, or its network of IPv6."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), IPV6_PREFIX), strict=False))
    return str(parsed or address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_port(entry: str) -> str:
    """Return the address of ``1.2.3.4:80``, ``[::1]:80`` or an address alone."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
