"""Origins: who may connect from a browser, and how the others are told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.support import RawClient, Server, client, running


@pytest.fixture(scope="module")
def picky(server: Server) -> Iterator[Server]:
    """A server for the pages of some origins; tokens are the other server's."""
    with running(
        server.data_dir,
        allowed_origins="https://app.example.com,https://*.example.org,http://localhost:3000",
    ) as picky:
        yield picky


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "https://APP.example.com",
        "https://app.example.com:443",
        "https://a.example.org",
        "https://b.a.example.org",
        "http://localhost:3000",
    ],
)
async def test_allowed(picky: Server, token: str, origin: str) -> None:
    async with client(picky, token, origin=origin) as page:
        await page.assert_silent()


async def test_a_client_without_origin_is_no_browser(picky: Server, token: str) -> None:
    async with client(picky, token, origin=None) as page:
        await page.assert_silent()


@pytest.mark.parametrize(
    "origin",
    [
        b"http://app.example.com",
        b"https://app.example.com:8443",
        b"https://example.com",
        b"https://app.example.com.evil.net",
        b"https://evilapp.example.com",
        b"https://example.org",
        b"https://evilexample.org",
        b"https://evil.net",
        b"https://evil.net/https://app.example.com",
        b"https://app.example.com@evil.net",
        b"http://localhost",
        b"null",
    ],
)
def test_others_are_closed_with_1008(picky: Server, token: str, origin: bytes) -> None:
    with RawClient(picky) as raw:
        answer = raw.shake_hands(b"Origin: " + origin)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        raw.send_message({"type": "auth", "data": {"token": token}})  # not looked at
        raw.assert_closed(1008, "origin not allowed")
        raw.say_goodbye()


@pytest.mark.parametrize("origin", [b"foo", b"", b"https://", b"https://a:99999", b"\xff\xfe"])
def test_what_is_no_origin_is_refused(picky: Server, origin: bytes) -> None:
    with RawClient(picky) as raw:
        answer = raw.shake_hands(b"Origin: " + origin)
        if not answer.startswith(b"HTTP/1.1 400 "):
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            raw.assert_closed(1008, "origin not allowed")


@pytest.mark.parametrize("origin", ["https://any.example", "http://127.0.0.1:1", "null"])
async def test_by_default_every_origin_is_allowed(server: Server, token: str, origin: str) -> None:
    try:
        async with client(server, token, origin=origin) as page:
            await page.assert_silent()
    except InvalidStatus as refused:
        raise AssertionError(refused) from None
