"""Node.js for tests: whether there is one that knows WebSockets, and a driven program."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import TIMEOUT

HERE = Path(__file__).parent


@cache
def node() -> list[str]:
    """Return the command of a Node that has WebSocket; empty if there is none."""
    path = shutil.which("node")
    for options in ([], ["--experimental-websocket", "--no-warnings"]):
        command = [path or "", *options]
        probe = [*command, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if path and subprocess.run(probe, capture_output=True).returncode == 0:
            return command
    return []


needs_node = pytest.mark.skipif(
    not node(), reason="no Node.js with WebSocket on PATH (20 or newer)"
)


class Driven:
    """The client in a Node process: what it is told to do, and what it says."""

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *node(),
            str(HERE / "driver.mjs"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=1 << 24,
        )
        # What it has said and nobody has waited for.
        self.said: list[dict[str, Any]] = []
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        _, errors = await self.process.communicate()
        assert not errors, errors.decode()

    def do(self, name: str, **values: Any) -> None:
        """Tell it to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": name, **values}).encode() + b"\n")

    def connect(self, url: str, token: str | None = None, **options: Any) -> None:
        """Let it connect, coming back soon when it is cut off."""
        tokens = options.pop("tokens", None)
        options.setdefault("backoff", [0.01, 0.1])
        self.do("connect", url=url, token=token, tokens=tokens, options=options)

    async def line(self) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = await self.process.stdout.readline()
        assert line, "it has ended"
        said: dict[str, Any] = json.loads(line)
        return said

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Return the first thing said that has these values; keep the rest for later."""
        return await self._first(
            lambda said: all(said.get(name) == value for name, value in wanted.items())
        )

    async def _first(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for place, said in enumerate(self.said):
            if wanted(said):
                return self.said.pop(place)
        while not wanted(said := await self.line()):
            self.said.append(said)
        return said

    async def open(self, url: str, token: str | None, **options: Any) -> None:
        """Connect, and wait until it is open."""
        self.connect(url, token, **options)
        await self.until(state="open")

    async def subscribe(self, type: str, filters: Any = None, **options: Any) -> dict[str, Any]:
        """Subscribe, and return the server's answer."""
        self.do("subscribe", type=type, filters=filters or {}, **options)
        return await self._first(lambda said: "ready" in said or "refused" in said)

    async def numbers(self, count: int, of: str = "events-1") -> list[int]:
        """Return the numbers of the next messages of a subscription."""
        return [
            (await self._first(lambda said: said.get("of") == of and "n" in said))["n"]
            for _ in range(count)
        ]

    async def end(self) -> None:
        """Give it nothing more to do; it ends by itself if nothing keeps it."""
        self.do("close")
        self.do("end")
        async with asyncio.timeout(TIMEOUT):
            assert await self.process.wait() == 0
