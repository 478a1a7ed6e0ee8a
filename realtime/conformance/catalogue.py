"""What a check is, what it works with, and how it reports that something differs.

Knows the protocol's messages; nothing of the single checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.testing.client import Client, connect

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
    allowed: tuple[str, ...] = SUBSCRIPTION_TYPES
    # Filters that only messages of this run match: each has this mark.
    filters: dict[str, Any] = field(default_factory=lambda: {"conformance": uuid.uuid4().hex})
    # The names of steps that several checks need and one of them has taken.
    done: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """A type that the token allows."""
        return self.allowed[0]

    def forbidden_type(self) -> str:
        """Return a type that the token does not allow."""
        for kind in SUBSCRIPTION_TYPES:
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


CheckBody = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """A check of one row of a table: its ``name`` is table, row and, after a dot, a part of it."""

    name: str
    body: CheckBody
    is_slow: bool
    authenticated: bool

    @property
    def row(self) -> str:
        """The name without the table."""
        return self.name.partition(" ")[2]

    @property
    def about(self) -> str:
        """What the body's docstring says."""
        return (self.body.__doc__ or "").rstrip(".").format(row=self.row)

    async def make(self, scene: Scene) -> None:
        """Make the check. Raises :class:`Differs`, :class:`Skip`, or what a client raises."""
        parameters = signature(self.body).parameters
        connection = scene.connect(authenticated=self.authenticated)
        async with connection if "client" in parameters else contextlib.nullcontext() as client:
            arguments = {"scene": scene, "client": client, "row": self.row}
            await self.body(**{name: arguments[name] for name in parameters})


# In the order of the protocol's page.
TABLES = (
    *("envelope", "message", "type", "operator", "option"),
    *("error", "close", "parameter", "event", "status"),
)
CHECKS: list[Check] = []


def check(
    *names: str, slow: bool = False, authenticated: bool = True
) -> Callable[[CheckBody], CheckBody]:
    """Add a check for each of these names. Its docstring says what it is about.

    It may have the parameters ``scene``, ``client``, which is connected, and ``row``.
    """

    def add(body: CheckBody) -> CheckBody:
        CHECKS.extend(Check(name, body, slow, authenticated) for name in names)
        CHECKS.sort(key=lambda check: TABLES.index(check.name.split()[0]))
        return body

    return add


_LOSSES = "a client cannot make a server lose messages, restart, or "
_NO_DATABASE, _NO_RIGHTS = f"{_LOSSES}lack its database", f"{_LOSSES}withdraw its rights"
# Rows that a client cannot bring about, and why.
NOT_CHECKED = {
    "error data_lost": _NO_DATABASE,
    "error restarting": _NO_DATABASE,
    "error unavailable": _NO_DATABASE,
    "close 1012": _NO_DATABASE,
    "close 1011": _NO_DATABASE,
    "close 1013": "it would keep others out",
    "event data_lost": _NO_RIGHTS,
    "event restarting": _NO_RIGHTS,
    "event unsubscribed": _NO_RIGHTS,
    "event close": _NO_RIGHTS,
    "status 503": _NO_RIGHTS,
    "status 429": "it depends on the token's limit of connections",
    "parameter token": "it needs a credential of short life",
}
