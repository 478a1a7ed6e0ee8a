"""What a check is, what it has to work with, and how it says that something differs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from realtime.testing.client import Client, connect

TYPES = ("events", "metrics", "alerts", "predictions", "aggregations", "system_status")


class Differs(Exception):
    """The server does not do what the table says."""


class Skip(Exception):
    """The check cannot be made here; says why."""


@dataclass
class Scene:
    """The server, what may be used of it, and what has been learned of it."""

    url: str
    token: str | None
    publish_command: str | None
    # Seconds for an answer.
    timeout: float
    allowed: tuple[str, ...] = TYPES
    # Tells this run's messages from all others.
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    # What checks share and one of them has done.
    done: set[str] = field(default_factory=set)

    @property
    def filters(self) -> dict[str, Any]:
        """Filters that only messages of this run match."""
        return {"conformance": self.mark}

    @property
    def kind(self) -> str:
        """A type that the token allows."""
        return self.allowed[0]

    @contextlib.asynccontextmanager
    async def connect(self, *, authenticated: bool = True) -> AsyncIterator[Client]:
        """Connect a new client."""
        token = self.token if authenticated else None
        # A check may leave a connection on which much is under way.
        options = {"close_timeout": 1, "ping_interval": None}
        async with connect(self.url, token, **options) as client:
            yield client

    async def publish(self, kind: str, *payloads: Mapping[str, Any]) -> None:
        """Publish marked payloads with the command that was given."""
        if self.publish_command is None:
            raise Skip("it needs messages: give --publish")
        lines = [json.dumps(dict(payload) | {"conformance": self.mark}) for payload in payloads]
        process = await asyncio.create_subprocess_exec(
            *shlex.split(self.publish_command),
            kind,
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate("\n".join([*lines, ""]).encode())
        if process.returncode:
            raise Skip(f"the command of --publish failed: {errors.decode().strip()[-200:]}")

    def stream_url(self, kind: str, **query: str) -> str:
        """Return the address of an event stream."""
        parts = urllib.parse.urlsplit(self.url)
        scheme = parts.scheme.replace("ws", "http", 1)
        encoded = urllib.parse.urlencode(query)
        return f"{scheme}://{parts.netloc}/api/stream/{kind}?{encoded}"


Body = Callable[[Scene], Awaitable[None]]


class Check(NamedTuple):
    """A check of one row of a table: its ``name`` is table, row and, after a dot, what of it."""

    name: str
    about: str
    body: Body
    is_slow: bool

    @property
    def row(self) -> str:
        """The table and the row's first cell."""
        return self.name.split(".")[0]


# In the order of the protocol's page.
TABLES = (
    "envelope",
    "message",
    "type",
    "operator",
    "option",
    "error",
    "close",
    "parameter",
    "event",
    "status",
)
CHECKS: list[Check] = []
# Rows that a client cannot bring about, and why.
NOT_CHECKED: dict[str, str] = {}


def check(name: str, *, slow: bool = False) -> Callable[[Body], Body]:
    """Add a check of a row; its docstring says what it is about."""

    def add(body: Body) -> Body:
        about = (body.__doc__ or "").strip().rstrip(".")
        CHECKS.append(Check(name, about, body, slow))
        CHECKS.sort(key=lambda check: TABLES.index(check.name.split()[0]))
        return body

    return add


def not_checked(why: str, *rows: str) -> None:
    """Name rows that a client cannot bring about."""
    NOT_CHECKED.update(dict.fromkeys(rows, why))


def expect(what: str, received: Any, wanted: Any) -> None:
    """Compare; what differs is said in full."""
    if received != wanted:
        raise Differs(f"{what}: expected {wanted!r}, received {received!r}")


def expect_keys(what: str, received: Any, wanted: set[str], optional: frozenset[str]) -> None:
    """Compare the keys of an object."""
    if not isinstance(received, dict):
        raise Differs(f"{what}: expected an object, received {received!r}")
    missing, more = wanted - received.keys(), received.keys() - wanted - optional
    if missing or more:
        said = [f"lacks {sorted(missing)}"] * bool(missing) + [f"has {sorted(more)}"] * bool(more)
        raise Differs(f"{what}: {' and '.join(said)}")


def expect_that(what: str, condition: bool, received: Any) -> None:
    """Say what was expected, and what came instead."""
    if not condition:
        raise Differs(f"expected {what}, received {received!r}")
