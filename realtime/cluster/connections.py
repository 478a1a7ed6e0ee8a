"""Who is connected now, in all processes: what the admin asks, and what each process answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import msgspec

from realtime.cluster.membership import Answers, ask_all
from realtime.protocol import CloseCode, CloseReason

# Connections in one process's answer.
LIMIT = 200
# Connections looked at before others have their turn.
AT_ONCE = 500


class Subscribed(msgspec.Struct):
    """A subscription: its id and type."""

    id: str
    type: str


class Connection(msgspec.Struct):
    """One connection, as its process sees it.

    ``holder`` is whose rights it has (``token:5``, ``user:7``, ``jwt:SUBJECT``, ``anonymous``), or
    ``None`` before authentication; ``token`` is the credential's public prefix. ``since`` is in
    seconds since 1970; ``sent`` and ``buffered`` are bytes.
    """

    client_id: str
    holder: str | None
    token: str | None
    address: str
    since: float
    sent: int
    buffered: int
    subscriptions: list[Subscribed]
    # Filled in by who asks.
    process: str = ""

    def matches(self, search: str) -> bool:
        """Tell whether a part of its id, token, holder, address or a type is *search*."""
        texts = [self.client_id, self.token, self.holder, self.address]
        texts += [subscription.type for subscription in self.subscriptions]
        return any(search in text.lower() for text in texts if text)


class Question(msgspec.Struct, omit_defaults=True):
    """What a process is asked: whom it serves, how many each holder has, or to end one of them."""

    find: bool = False
    search: str = ""
    holder: str = ""
    count: bool = False
    disconnect: str = ""


class _Answer(msgspec.Struct, omit_defaults=True):
    total: int = 0
    connections: list[Connection] = []
    holders: dict[str, int] = {}
    found: bool = False


class Overview(msgspec.Struct):
    """The newest connections that match, how many match in all, and who did not answer."""

    connections: list[Connection]
    total: int
    missing: list[str]


class Client(Protocol):
    """A connection that can say what it is and be closed."""

    client_id: str

    def describe(self) -> Connection:
        """Return what an operator may see of it."""

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close it."""


_question = msgspec.json.Decoder(Question)
_answer = msgspec.json.Decoder(_Answer)


# In a serving process


async def answer(question: bytes, clients: Iterable[Client], holders: dict[str, int]) -> bytes:
    """Answer from what this process serves."""
    asked = _question.decode(question)
    reply = _Answer()
    if asked.find:
        matching = [found async for found in _find(asked, list(clients))]
        reply.total = len(matching)
        reply.connections = matching[-LIMIT:]
    if asked.count:
        reply.holders = holders
    if asked.disconnect:
        known = {client.client_id: client for client in clients}
        if client := known.get(asked.disconnect):
            client.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
            reply.found = True
    return msgspec.json.encode(reply)


async def _find(asked: Question, clients: list[Client]) -> AsyncIterator[Connection]:
    search = asked.search.lower()
    for number, client in enumerate(clients, 1):
        connection = client.describe()
        if asked.holder in ("", connection.holder) and connection.matches(search):
            yield connection
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)


# Where it is asked; each blocks for as long as a process takes to answer, at most 1.5 seconds, and
# raises realtime.processes.Unanswered if the channel layer does not answer.


def connections(search: str = "", holder: str = "") -> Overview:
    """Return the newest :data:`LIMIT` connections of *holder*, or of anyone, that match."""
    answers = _ask(Question(find=True, search=search, holder=holder))
    found: list[Connection] = []
    total = 0
    for process, given in answers.given.items():
        part = _answer.decode(given)
        total += part.total
        for connection in part.connections:
            connection.process = process
        found += part.connections
    found.sort(key=lambda connection: connection.since, reverse=True)
    return Overview(found[:LIMIT], total, answers.missing)


def count_by_holder() -> dict[str, int]:
    """Return how many connections each holder of rights has."""
    totals: dict[str, int] = {}
    for given in _ask(Question(count=True)).given.values():
        for holder, count in _answer.decode(given).holders.items():
            totals[holder] = totals.get(holder, 0) + count
    return totals


def disconnect(client_id: str) -> bool:
    """Close a connection with 1008; tell whether there was one."""
    answers = _ask(Question(disconnect=client_id))
    return any(_answer.decode(given).found for given in answers.given.values())


def _ask(question: Question) -> Answers:
    return ask_all(msgspec.json.encode(question))
