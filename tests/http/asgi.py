"""Requests to ASGI applications in memory, in a time that takes none."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import override_settings

from realtime.sessions.node import Node, prepare_node
from realtime.testing.clock import FakeClock
from tests.sessions.scene import TokenDatabase
from tests.support.layers import IN_MEMORY

SECRET = "rt_00000001_secret"


class Site:
    """The server of these tests: its node, its database and its clock."""

    node: Node

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.database = TokenDatabase()


@contextmanager
def site_in_memory(monkeypatch: pytest.MonkeyPatch, *modules: str) -> Iterator[Site]:
    """Yield a site whose clock these modules read."""
    site = Site()
    monkeypatch.setattr("realtime.sessions.node.Database", lambda: site.database)
    for module in ("realtime.sessions.rights", "realtime.sessions.subscriber", *modules):
        monkeypatch.setattr(f"{module}.time", site.clock)
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        yield site


def in_no_time(test: Callable[[Site], Awaitable[None]]) -> Callable[[Site], None]:
    """Run a test in the site's time; afterwards no session may be left."""

    @functools.wraps(test)
    def run(site: Site) -> None:
        async def whole() -> None:
            site.node = prepare_node(asyncio.get_running_loop(), None)
            await test(site)
            assert not site.node.roster.clients and site.node.hub.count_groups() == 0
            await site.node.close()

        site.clock.run(whole())

    return run


class Exchange:
    """One request, and the answer as far as it has come."""

    def __init__(
        self, application: Any, method: str, path: str, query: str = "", **headers: str
    ) -> None:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
            "client": ("10.0.0.1", 1234),
        }
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task = asyncio.create_task(application(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]

    async def give(self, part: bytes, more: bool = True) -> None:
        """Let a part of the body come, and the application do what it can with it."""
        self._incoming.put_nowait({"type": "http.request", "body": part, "more_body": more})
        await asyncio.sleep(0.1)

    async def leave(self) -> None:
        """Let the client go, and wait for the end."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await self.ended()

    async def ended(self) -> None:
        """Wait until the application has answered all."""
        await self._task

    async def answer(self) -> Any:
        """Wait for the end; return the answer, which is JSON."""
        await self.ended()
        return json.loads(self.body)
