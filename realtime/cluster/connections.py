"""Who is connected now, in all processes: what the admin asks, and what each process answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import msgspec

from realtime.cluster import get_cluster
from realtime.protocol import CloseCode, CloseReason

# Connections in one process's answer.
LIMIT = 200
# Connections that are looked at before the event loop has its turn.
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
    # Filled in by the process that asks.
    process: str = ""

    def matches(self, search: str) -> bool:
        """Tell whether a part of its id, token, holder, address or a type is *search*."""
        texts = [self.client_id, self.token, self.holder, self.address]
        texts += [subscription.type for subscription in self.subscriptions]
        return any(search in text.lower() for text in texts if text)


class ConnectionList(msgspec.Struct):
    """The newest connections that match, how many match in all, and who did not answer."""

    connections: list[Connection]
    total: int
    missing: list[str] = []


class LiveConnection(Protocol):
    """A connection that can say what it is and be closed."""

    client_id: str

    def describe(self) -> Connection:
        """Return what an operator may see of it."""

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close it."""


# The questions, told apart by a field "type" that msgspec adds. The answers are a ConnectionList,
# the numbers by holder, and true or false.


class Find(msgspec.Struct, tag=True):
    """Which connections of a holder, or of anyone, match a search?"""

    search: str
    holder: str


class CountByHolder(msgspec.Struct, tag=True):
    """How many connections does each holder of rights have?"""


class Disconnect(msgspec.Struct, tag=True):
    """Close a connection; was there one?"""

    client_id: str


Question = Find | CountByHolder | Disconnect


# In a serving process


async def answer(
    question: bytes, clients: Iterable[LiveConnection], holders: dict[str, int]
) -> bytes:
    """Answer a question about the connections that this process serves.

    *holders* has the number of connections of each holder of rights.
    """
    asked: Question = msgspec.json.decode(question, type=Question)
    match asked:
        case Find(search, holder):
            connections = []
            for number, client in enumerate(list(clients), 1):
                connection = client.describe()
                if holder in ("", connection.holder) and connection.matches(search.lower()):
                    connections.append(connection)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            return msgspec.json.encode(ConnectionList(connections[-LIMIT:], len(connections)))
        case CountByHolder():
            return msgspec.json.encode(holders)
        case Disconnect(client_id):
            wanted = [client for client in clients if client.client_id == client_id]
            for client in wanted:
                client.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
            return msgspec.json.encode(bool(wanted))


# In the process that asks. Each function blocks for as long as a process takes to answer, at most
# 1.5 seconds, and raises realtime.cluster.clients.Unavailable if the channel layer does not answer.


def connections(search: str = "", holder: str = "") -> ConnectionList:
    """Return the newest :data:`LIMIT` connections of *holder*, or of anyone, that match."""
    answers = get_cluster().ask_all(msgspec.json.encode(Find(search, holder)))
    merged = ConnectionList([], 0, answers.missing)
    for process, reply in answers.by_process.items():
        matches = msgspec.json.decode(reply, type=ConnectionList)
        merged.total += matches.total
        for connection in matches.connections:
            connection.process = process
        merged.connections += matches.connections
    merged.connections.sort(key=lambda connection: connection.since, reverse=True)
    del merged.connections[LIMIT:]
    return merged


def count_by_holder() -> dict[str, int]:
    """Return how many connections each holder of rights has."""
    totals: Counter[str] = Counter()
    for reply in get_cluster().ask_all(msgspec.json.encode(CountByHolder())).by_process.values():
        totals.update(msgspec.json.decode(reply, type=dict[str, int]))
    return totals


def disconnect(client_id: str) -> bool:
    """Close a connection with 1008; tell whether there was one."""
    answers = get_cluster().ask_all(msgspec.json.encode(Disconnect(client_id)))
    return any(map(msgspec.json.decode, answers.by_process.values()))
