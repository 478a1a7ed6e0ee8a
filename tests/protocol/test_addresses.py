"""Whose address it is: forwarded addresses are believed from the right, by trusted proxies only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.origins import TrustedProxies, address_key, check_network

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        # Nobody in between.
        ("203.0.113.9", [], "203.0.113.9"),
        # Not a proxy: what it says of itself is not believed.
        ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        # One proxy.
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["2001:db8::9"], "2001:db8::9"),
        # The client has sent one itself: the proxy appended the true one.
        ("10.0.0.1", ["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
        # Several proxies.
        ("10.0.0.1", ["198.51.100.7, 203.0.113.9, 10.0.0.2,10.1.0.3"], "203.0.113.9"),
        # Only proxies: the first of them.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        # With ports, as some write them.
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::9]:4711"], "2001:db8::9"),
        # IPv4 over an IPv6 socket.
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        # No address: what is left of it may be anybody's.
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.9, <script>, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        (None, ["203.0.113.9"], None),
    ],
)
def test_the_client_is_who_called_the_outermost_trusted_proxy(
    peer: str | None, forwarded_for: list[str], client: str | None
) -> None:
    assert PROXIES.client(peer, forwarded_for) == client


def test_the_other_end_of_a_unix_socket_may_be_trusted() -> None:
    assert TrustedProxies(["unix"]).client(None, ["203.0.113.9"]) == "203.0.113.9"


def test_none_trusts_nobody() -> None:
    assert not TrustedProxies([])
    assert TrustedProxies([]).client("10.0.0.1", ["203.0.113.9"]) == "10.0.0.1"


@given(st.lists(st.text(max_size=60), max_size=5))
def test_whatever_clients_send_the_address_is_one(values: list[str]) -> None:
    client = PROXIES.client("10.0.0.1", values)
    assert client is not None and address_key(client)
    assert PROXIES.client("203.0.113.9", values) == "203.0.113.9"


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1", "unix"])
def test_a_network(network: str) -> None:
    check_network(network)


@pytest.mark.parametrize("network", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "*"])
def test_what_is_no_network_is_said(network: str) -> None:
    with pytest.raises(ValueError, match="expected an address, a network such as"):
        check_network(network)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("", ""),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "not an address"),
    ],
)
def test_what_counts_as_one_address(address: str, key: str) -> None:
    assert address_key(address) == key
