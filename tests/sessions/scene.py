"""A node in memory, for tests of sessions: its database has tokens only, its clients a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from realtime.auth.grants import Grant
from realtime.auth.policy import Policy, current_revision, environment_policy, load_policy
from realtime.auth.tokens import digest, find_grant, live_grants, record_use
from realtime.database import Unavailable
from realtime.protocol import CloseCode, CloseReason, split_frames
from realtime.sessions.node import Node
from realtime.sessions.session import Session

TYPES = frozenset({"events", "alerts"})


class TokenDatabase:
    """A database with tokens and a policy, in memory; it can be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.policy: Policy = environment_policy()
        self.uses: set[int] = set()
        self._revision = 1
        # The digest of a secret -> what it grants.
        self._grants: dict[bytes, Grant] = {}

    def add(self, secret: str, number: int = 1, **fields: Any) -> Grant:
        """Add a token, or give it other rights."""
        secret_digest = digest(secret)
        grant = Grant(f"token:{number}", f"rt_{number:08x}", TYPES, digest=secret_digest)
        self._grants[secret_digest] = replace(grant, **fields)
        self._revision += 1
        return self._grants[secret_digest]

    def revoke(self, secret: str) -> None:
        """Take a token's rights."""
        del self._grants[digest(secret)]
        self._revision += 1

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Answer one of the questions that sessions lead to."""
        if self.is_away:
            raise Unavailable("away")
        answers: dict[Callable[..., Any], Callable[..., Any]] = {
            find_grant: self._grants.get,
            live_grants: self._live_grants,
            current_revision: lambda: self._revision,
            load_policy: lambda: self.policy,
            record_use: self.uses.update,
        }
        return answers[function](*arguments)

    def _live_grants(self, keys: set[int]) -> dict[int, dict[bytes, Grant]]:
        live: dict[int, dict[bytes, Grant]] = {}
        for secret_digest, grant in self._grants.items():
            if grant.holder_id in keys:
                live.setdefault(grant.holder_id, {})[secret_digest] = grant
        return live

    def close(self) -> None:
        """There is nothing to close."""


class Recorder:
    """A transport that keeps what it is given; its client may be told to read nothing."""

    deflated = False

    def __init__(self) -> None:
        self.on_lost: Callable[[], None] | None = None
        self.on_ended: Callable[[CloseReason], None] | None = None
        self.bytes_sent = 0
        self.is_trusted = False
        self.closed: tuple[CloseCode, CloseReason] | None = None
        # What its buffer takes.
        self.most_bytes = 1 << 30
        self._frames: list[bytes] = []

    def write(self, frames: bytes) -> None:
        """Keep frames, until the end."""
        if self.closed is None and self.buffered_bytes() + len(frames) > self.most_bytes:
            self.overflow()
        elif self.closed is None:
            self._frames.append(frames)
            self.bytes_sent += len(frames)

    def buffered_bytes(self) -> int:
        """Return how many bytes nobody has read."""
        return sum(map(len, self._frames))

    def overflow(self) -> None:
        """Close as a transport does whose client does not read."""
        self.close(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)
        assert self.on_ended is not None
        self.on_ended(CloseReason.SLOW_CONSUMER)

    def trust(self) -> None:
        """Remember that the client has authenticated."""
        self.is_trusted = True

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Remember the first end."""
        self.closed = self.closed or (code, reason)

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that have come since this was called last."""
        payloads = [payload for frames in self._frames for payload in split_frames(frames)]
        self._frames = []
        return [msgspec.json.decode(payload) for payload in payloads]


class Client(Recorder):
    """A client with its session."""

    def __init__(self, node: Node, address: str = "10.0.0.1") -> None:
        super().__init__()
        self.session = Session(node, address)
        self.session.attach(self)

    async def log_in(self, secret: str) -> bool:
        """Authenticate and enter, as both edges do."""
        grant = await self.session.authenticate(secret)
        if grant is None or self.session.has_ended or not self.session.enter(grant):
            return False
        self.session.apply_grant(grant)
        return True
