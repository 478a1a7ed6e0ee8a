"""Who is connected to this process, who has yet to authenticate, and with which tokens.

Knows whom there is room for; nothing of sockets, subscriptions or the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from realtime.auth import Grant
from realtime.protocol import CloseCode, CloseReason


class Client(Protocol):
    """A connection as the roster and the node see it."""

    grant: Grant | None

    def apply_grant(self, grant: Grant) -> None:
        """Take changed rights; subscriptions that they do not allow end."""

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the connection; never waits."""

    def restart(self, retry_after: float) -> None:
        """Tell the client that the server restarts, and close the connection."""


class Roster:
    """The connections of one event loop. Dictionaries keep the order of arrival."""

    def __init__(self) -> None:
        # Every open connection.
        self.clients: dict[Client, None] = {}
        # Those that have yet to authenticate.
        self.waiting: dict[Client, None] = {}
        # Token id -> its open connections; never empty.
        self.by_token: dict[int, dict[Client, None]] = {}

    def admit(self, client: Client, most: int, must_authenticate: bool) -> bool:
        """Take a newcomer in if there is room among *most* connections, or can be made.

        The oldest that has not authenticated gives way.
        """
        if len(self.clients) >= most:
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                return False
            oldest.end(CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY)
            self.forget(oldest)
        self.clients[client] = None
        if must_authenticate:
            self.waiting[client] = None
        return True

    def forget(self, client: Client) -> None:
        """Let a connection go; once or more."""
        self.clients.pop(client, None)
        self.waiting.pop(client, None)
        self._release_token(client)

    def bind(self, client: Client, grant: Grant) -> bool:
        """Give a connection the rights of a token, unless the token has connections enough."""
        token_id = grant.token_id
        if token_id is not None and grant.max_connections is not None:
            holders = self.by_token.get(token_id, {})
            if client not in holders and len(holders) >= grant.max_connections:
                return False
        self._release_token(client)
        client.grant = grant
        self.waiting.pop(client, None)
        if token_id is not None:
            self.by_token.setdefault(token_id, {})[client] = None
        return True

    def _release_token(self, client: Client) -> None:
        token_id = client.grant.token_id if client.grant else None
        holders = self.by_token.get(token_id) if token_id is not None else None
        if token_id is None or holders is None:
            return
        holders.pop(client, None)
        if not holders:
            del self.by_token[token_id]

    def expired(self, now: float) -> Iterator[Client]:
        """Yield the connections whose rights have ended by *now* (seconds since 1970)."""
        for holders in list(self.by_token.values()):
            # A token's connections all have its rights, so one of them tells.
            grant = next(iter(holders)).grant
            if grant is not None and grant.expires_at is not None and grant.expires_at <= now:
                yield from list(holders)
