"""The values that a client gives to an application: messages, positions, gaps, states, errors."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


class State(enum.StrEnum):
    """What a client is doing. ``RECOVERING`` is connecting again after a connection was lost."""

    CONNECTING = "connecting"
    OPEN = "open"
    RECOVERING = "recovering"
    CLOSED = "closed"


class StreamingError(Exception):
    """Anything that this module raises."""


class AuthenticationError(StreamingError):
    """The server does not accept the token."""


class Refused(StreamingError):
    """The server refused a request. ``code`` and ``details`` are the protocol's."""

    def __init__(self, code: str, text: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.details = details or {}


class Closed(StreamingError):
    """The connection has ended for good; ``code`` is the close code, if there was one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Position(NamedTuple):
    """A place in a type's log, to resume after."""

    epoch: str
    offset: int


class Gap(NamedTuple):
    """Messages that cannot be had any more: refetch what they would have changed.

    ``first`` and ``last`` are offsets, where they are known; ``reason`` is the server's, or
    ``not recovered`` after a resume from what is no longer retained.
    """

    reason: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A published message. ``timestamp`` is when (ISO 8601); ``position`` is where, if logged."""

    type: str
    payload: Any
    timestamp: str
    position: Position | None
    subscription_id: str


class Finished(Closed):
    """The user has ended it."""


class LostError(Exception):
    """The connection has gone while an answer was awaited."""
