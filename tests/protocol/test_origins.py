"""Origins: which patterns are patterns, and which pages they let in."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.protocol.origins import (
    TrustedProxies,
    address_key,
    check_network,
    check_pattern,
    origin_allowed,
    parse_origin,
)

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
SCHEME = st.sampled_from(["http", "https"])
PORT = st.integers(1, 65_535)
# Text that comes close to an origin, which plain text() seldom does.
ORIGIN_LIKE = st.lists(
    st.sampled_from(["https", "://", "*", ".", "a", ":", "443", "[", "]", "@", "/", "?", "#", "é"])
    | st.characters(),
    max_size=12,
).map("".join)
ANYTHING = st.text() | ORIGIN_LIKE


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", ("https", "app.example.com", 443)),
        ("http://app.example.com", ("http", "app.example.com", 80)),
        ("HTTPS://App.Example.COM", ("https", "app.example.com", 443)),
        ("https://app.example.com.", ("https", "app.example.com", 443)),
        ("http://localhost:3000", ("http", "localhost", 3000)),
        ("http://[::1]:3000", ("http", "::1", 3000)),
        ("app://bundle", ("app", "bundle", 0)),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, origin: tuple[str, str, int]) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app.example.com",
        "localhost:3000",
        "//app.example.com",
        "://app.example.com",
        "https://",
        "https://.",
        "https://:443",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com?query",
        "https://app.example.com#fragment",
        "https://user@app.example.com",
        "https://app.example.com:port",
        "https://app.example.com:65536",
        "https://app example.com",
        " https://app.example.com",
        "https://[::1",
    ],
)
def test_what_is_no_origin_is_no_pattern_and_let_in_by_nothing(text: str) -> None:
    assert parse_origin(text) is None
    assert not origin_allowed(text, ["*", "null", text])
    with pytest.raises(ValueError, match="is no origin: expected scheme://host"):
        check_pattern(text)


@pytest.mark.parametrize(
    "pattern",
    ["*", "null", "https://app.example.com", "http://localhost:3000", "https://*.example.com:8443"],
)
def test_patterns(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["https://*", "https://*.", "https://*.*.com", "https://app.*.com", "https://a*.com", "**"],
)
def test_a_wildcard_stands_for_the_first_labels_only(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("origin", "patterns", "allowed"),
    [
        # No header: no browser, so no page to protect.
        (None, [], True),
        ("https://app.example.com", [], False),
        ("https://app.example.com", ["*"], True),
        ("https://app.example.com", ["https://app.example.com"], True),
        ("https://APP.example.com", ["https://app.EXAMPLE.com"], True),
        ("https://app.example.com:443", ["https://app.example.com"], True),
        ("https://app.example.com", ["https://app.example.com:443"], True),
        ("https://app.example.com.", ["https://app.example.com"], True),
        ("https://app.example.com:8443", ["https://app.example.com"], False),
        ("http://app.example.com", ["https://app.example.com"], False),
        ("https://other.example.com", ["https://app.example.com"], False),
        ("https://other.example.com", ["https://a.com", "https://other.example.com"], True),
        # A wildcard: subdomains at any depth, not the domain itself, nothing that only ends so.
        ("https://app.example.com", ["https://*.example.com"], True),
        ("https://a.b.example.com", ["https://*.example.com"], True),
        ("https://example.com", ["https://*.example.com"], False),
        ("https://badexample.com", ["https://*.example.com"], False),
        ("https://app.example.com.evil.com", ["https://*.example.com"], False),
        ("http://app.example.com", ["https://*.example.com"], False),
        # Pages without an origin.
        ("null", ["null"], True),
        ("null", ["*"], True),
        ("null", ["https://app.example.com"], False),
        ("https://null", ["null"], False),
    ],
)
def test_who_may_connect(origin: str | None, patterns: list[str], allowed: bool) -> None:
    assert origin_allowed(origin, patterns) is allowed


@given(SCHEME, HOST, PORT)
def test_an_origin_lets_itself_in_and_no_other_port(scheme: str, host: str, port: int) -> None:
    origin = f"{scheme}://{host}:{port}"
    assert origin_allowed(origin, [origin])
    assert not origin_allowed(origin, [f"{scheme}://{host}:{port % 65_535 + 1}"])


@given(SCHEME, LABEL, HOST)
def test_a_wildcard_lets_in_subdomains_only(scheme: str, label: str, host: str) -> None:
    pattern = [f"{scheme}://*.{host}"]
    assert origin_allowed(f"{scheme}://{label}.{host}", pattern)
    assert not origin_allowed(f"{scheme}://{host}", pattern)
    assert not origin_allowed(f"{scheme}://{label}{host}", pattern)


@given(st.none() | ANYTHING, st.lists(ANYTHING))
@example("https://[", ["https://["])
@example("https://a:²", ["https://a:²"])
@example("https://\u2100.com", ["*"])
def test_no_text_makes_it_raise(origin: str | None, patterns: list[str]) -> None:
    assert isinstance(origin_allowed(origin, [*patterns, "*"]), bool)


@given(ANYTHING)
def test_a_pattern_is_accepted_or_refused_with_its_form(text: str) -> None:
    try:
        check_pattern(text)
    except ValueError as error:
        assert "expected scheme://host" in str(error)
    else:
        assert text in {"*", "null"} or parse_origin(text) is not None


# Whose address it is: forwarded addresses are believed from the right, by trusted proxies only.


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
