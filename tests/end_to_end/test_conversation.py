"""Authenticate, subscribe, receive, unsubscribe, ping: over real sockets, from another process."""

from __future__ import annotations

from tests.support import Server, client


async def test_a_client_receives_what_another_process_publishes(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events", {"user.id": ["a", "b"]})
        server.publish("events", {"user": {"id": "c"}}, {"user": {"id": "b"}, "n": 1})
        assert await page.expect_data("event") == {"user": {"id": "b"}, "n": 1}
        await page.expect_silence()
