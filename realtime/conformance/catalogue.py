"""What a check is, what it works with, and how it reports that something differs.

Knows the protocol's messages; nothing of the single checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

from realtime.testing.client import Client, connect

# Subscription type -> the key under which its messages have their payload.
PAYLOAD_KEYS = {
    "events": "event",
    "metrics": "metrics",
    "alerts": "alert",
    "predictions": "prediction",
    "aggregations": "aggregation",
    "system_status": "status",
}
TYPES = tuple(PAYLOAD_KEYS)
POSITION = {"epoch", "offset"}

Message = dict[str, Any]


class Differs(Exception):
    """The server does not do what the protocol says."""


class Skip(Exception):
    """The check cannot be made here; the text says why."""


@dataclass
class Scene:
    """The server, what may be used to check it, and what has been learned of it."""

    url: str
    token: str | None
    publish_command: str | None
    # Seconds for an answer.
    timeout: float
    allowed: tuple[str, ...] = TYPES
    # Tells this run's messages from all others.
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    # The names of steps that several checks need and one of them has taken.
    done: set[str] = field(default_factory=set)

    @property
    def filters(self) -> dict[str, Any]:
        """Filters that only messages of this run match."""
        return {"conformance": self.mark}

    @property
    def kind(self) -> str:
        """A type that the token allows."""
        return self.allowed[0]

    def forbidden_type(self) -> str:
        """Return a type that the token does not allow."""
        for kind in TYPES:
            if kind not in self.allowed:
                return kind
        raise Skip("the token allows all types: give one that does not")

    def subscribe(self, **data: Any) -> Message:
        """Return a ``subscribe`` message with these fields in its data."""
        return {"type": "subscribe", "data": {"type": self.kind} | data}

    @contextlib.asynccontextmanager
    async def connect(self, *, authenticated: bool = True) -> AsyncIterator[Client]:
        """Connect a new client."""
        token = self.token if authenticated else None
        # A check may leave a connection on which much is under way.
        async with connect(self.url, token, close_timeout=1, ping_interval=None) as client:
            yield client

    async def publish(self, kind: str, *payloads: Mapping[str, Any]) -> None:
        """Publish payloads with the command of ``--publish``, each with this run's mark."""
        if self.publish_command is None:
            raise Skip("it needs messages: give --publish")
        lines = [json.dumps(dict(payload) | self.filters) for payload in payloads]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *shlex.split(self.publish_command), kind, "-", stdin=pipe, stdout=pipe, stderr=pipe
        )
        _, errors = await process.communicate("\n".join([*lines, ""]).encode())
        if process.returncode:
            raise Skip(f"the command of --publish failed: {errors.decode().strip()[-200:]}")

    async def publish_numbers(self, numbers: Iterable[int]) -> None:
        """Publish ``{"n": number}`` for each number."""
        await self.publish(self.kind, *({"n": number} for number in numbers))

    def stream_url(self, kind: str, query: str) -> str:
        """Return the address of an event stream."""
        parts = urllib.parse.urlsplit(self.url)
        scheme = parts.scheme.replace("ws", "http", 1)
        return f"{scheme}://{parts.netloc}/api/stream/{kind}?{query}"


CheckBody = Callable[[Scene], Awaitable[None]]
ClientCheckBody = Callable[[Scene, Client], Awaitable[None]]


class Check(NamedTuple):
    """A check of one row of a table: its ``name`` is table, row and, after a dot, a part of it."""

    name: str
    about: str
    body: CheckBody
    is_slow: bool

    @property
    def row(self) -> str:
        """The table and the row's first cell."""
        return self.name.split(".")[0]


# In the order of the protocol's page.
TABLES = (
    *("envelope", "message", "type", "operator", "option"),
    *("error", "close", "parameter", "event", "status"),
)
CHECKS: list[Check] = []
# Rows that a client cannot bring about, and why.
NOT_CHECKED: dict[str, str] = {}


def check(name: str, about: str = "", *, slow: bool = False) -> Callable[[CheckBody], CheckBody]:
    """Add a check of a row. What it is about is said by *about* or its docstring."""

    def add(body: CheckBody) -> CheckBody:
        CHECKS.append(Check(name, about or (body.__doc__ or "").strip().rstrip("."), body, slow))
        CHECKS.sort(key=lambda check: TABLES.index(check.name.split()[0]))
        return body

    return add


def client_check(
    name: str, about: str = "", *, slow: bool = False, authenticated: bool = True
) -> Callable[[ClientCheckBody], CheckBody]:
    """Add a check that is made with one client."""

    def add(body: ClientCheckBody) -> CheckBody:
        @wraps(body)
        async def connected(scene: Scene) -> None:
            async with scene.connect(authenticated=authenticated) as client:
                await body(scene, client)

        return check(name, about, slow=slow)(connected)

    return add


def not_checked(why: str, *rows: str) -> None:
    """Name rows that a client cannot bring about."""
    NOT_CHECKED.update(dict.fromkeys(rows, why))
