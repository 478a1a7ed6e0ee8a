"""The address of a client, which a server behind a proxy knows only from a header. Pure.

Anyone can send ``X-Forwarded-For``. Each proxy appends the address it was called from, so entries
are believed from the right, as long as trusted proxies wrote them (MDN, "X-Forwarded-For", security
and privacy concerns).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# What stands for the other end of a Unix socket among trusted proxies.
UNIX = "unix"
# An IPv6 customer has at least a /64 (RFC 6177), so that is what counts as one address.
IPV6_PREFIX = 64

Network = str
Address = IPv4Address | IPv6Address


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

    def __init__(self, networks: Iterable[Network]) -> None:
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


def _parse(text: str) -> Address | None:
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
