"""The state of processors in Redis, beside the log that they publish to; nothing of their work.

One call saves how far a processor has read and its state, and appends what it publishes: all of it
or nothing. A *lease* says which process runs a processor. It alone would not be safe, since a
process may be paused for longer than its lease and then go on. So the state has a *token*, a random
one that each claim and each save replaces, and only who has the token can save, like in this
example::

    process A    claims: 5f   saves: 5f to c2   ..... paused .....   saves, has c2: refused
    process B                                    claims: 9a   saves: 9a to 07

The messages that A has read since count once, as B counted them: A is *fenced* and gives the
processor up. A save that is repeated, since its answer was lost, finds its own token there. Tokens
are random, not numbers that begin at 1 again, so that nobody saves into the state that begins after
the server has lost its data.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import redis
from redis.asyncio import Redis as AsyncRedis

from realtime.analytics.processing.contract import AnyProcessor
from realtime.cluster.clients import Script, as_text, ask, ask_blocking
from realtime.cluster.layer import group_address, key
from realtime.cluster.servers import Server
from realtime.log.redis import append_arguments, log_keys, to_appended, to_head
from realtime.protocol import Position
from realtime.publishing.publication import Publication

# Seconds without a sign of life after which another process takes a processor over.
LEASE = 6.0
# Seconds for which the state of a processor is kept that is gone: removed, or turned off.
STATE_TTL = 30 * 86_400
# Before the names of a processor's own fields.
FIELD_PREFIX = "f:"

# Fields that are asked for at a time.
SCAN_FIELDS = 256

_CLAIM, _RENEW, _SAVE, _KEEP = (
    Script("realtime.analytics.processing", name) for name in ("claim", "renew", "save", "keep")
)


class Fenced(Exception):
    """Another process has taken the processor over."""


@dataclass
class Hold:
    """A processor that this process runs, and how far it has read."""

    processor: AnyProcessor
    owner: str
    # Of the claim, or of the last save; "" if that was given up in the middle: what it was to save
    # is saved by nobody, so nothing that comes after may be saved.
    token: str
    # What has been taken in, and what has been saved. None before the first message is read.
    position: Position | None
    saved: Position | None
    saved_at: float = 0.0
    # While a processor that waits is at work.
    task: asyncio.Task[None] | None = None
    # Where the log of its source ended, and when it had taken in what was read then, in seconds
    # since 1970; 0 before it has.
    head: int = 0
    read_at: float = 0.0

    @property
    def needs_saving(self) -> bool:
        """Whether anything has happened since the last save."""
        return self.position != self.saved or self.processor.urgent

    @property
    def lag(self) -> int:
        """Messages that it has not taken in."""
        return 0 if self.position is None else max(0, self.head - self.position.offset)


class Place(NamedTuple):
    """Where a processor's state is: the server, and the keys."""

    server: Server
    log: list[str]
    state: str
    lease: str


def place_of(processor: AnyProcessor) -> Place:
    """Return where a processor's state is."""
    kind = state_kind(processor)
    state = f"{_stem(kind)}{processor.name}"
    return Place(group_address(kind)[0], log_keys(kind), state, f"{state}:lease")


def state_kind(processor: AnyProcessor) -> str:
    """Return the type beside whose log a processor's state is."""
    return processor.target or processor.source


def _stem(kind: str) -> str:
    return key(f"{{{kind}}}:processor:")


async def claim(processor: AnyProcessor, owner: str) -> Hold | None:
    """Take a processor over and restore it; ``None`` if another process has it.

    The caller must :func:`renew` the lease within :data:`LEASE`. Raises ``Unavailable``.
    """
    place = place_of(processor)
    keeps_state = int(getattr(processor, "keeps_state", False))
    token = secrets.token_hex(8)
    arguments = (owner, int(LEASE * 1000), processor.definition, keeps_state, token)
    keys = [place.state, place.lease]
    reply = await ask(place.server, lambda client: _CLAIM.acall(client, keys, *arguments))
    if reply is None:
        return None
    processor.restore(await _read_fields(place))
    position = None if reply[0] is None else to_head(reply)
    return Hold(processor, owner, token, position, position)


async def _read_fields(place: Place) -> dict[str, bytes]:
    """Return a processor's own fields. They may be large, so they come a few at a time."""
    fields: dict[str, bytes] = {}
    cursor = 0

    async def scan(client: AsyncRedis) -> Any:
        return await client.hscan(place.state, cursor, f"{FIELD_PREFIX}*", SCAN_FIELDS)

    while True:
        cursor, some = await ask(place.server, scan)
        fields |= {name.decode().removeprefix(FIELD_PREFIX): it for name, it in some.items()}
        if not cursor:
            return fields


async def renew(processor: AnyProcessor, owner: str, *, give_up: bool = False) -> bool:
    """Keep the lease or give it up; tell whether this process had it. Raises ``Unavailable``."""
    place = place_of(processor)
    arguments = [place.lease], owner, 0 if give_up else int(LEASE * 1000)
    return bool(await ask(place.server, lambda client: _RENEW.acall(client, *arguments)))


async def save(hold: Hold) -> None:
    """Save what has changed and publish, in one step; of a large state, parts before.

    Raises :class:`Fenced` if another process has taken the processor over or the server has lost
    its data, or ``Unavailable`` if it may have been saved: claim it anew, which restores what was
    saved.
    """
    assert hold.position is not None
    processor, position = hold.processor, hold.position
    changes = processor.save()
    restored_at = position.offset if changes.upto is None else changes.upto
    fields: Mapping[str, bytes] = {}
    for part in changes.parts:
        if fields:
            await _write(hold, {"fields": _own(fields), "removed": []})
        fields = part
    whole = {
        "epoch": position.epoch,
        "offset": restored_at,
        "taken": position.offset,
        "fields": _own(fields) | _own(changes.fields),
        "removed": [FIELD_PREFIX + name for name in changes.removed],
    }
    publication, arguments = None, []
    if changes.outputs:
        assert processor.target is not None
        publication = Publication(processor.target, list(changes.outputs), None)
        arguments = append_arguments(publication.append, group_address(processor.target)[1])
    reply = await _write(hold, whole, *arguments)
    hold.saved, hold.saved_at = Position(position.epoch, restored_at), time.monotonic()
    if publication is not None and isinstance(reply, bytes):
        await publication.announce(to_appended(reply))


def _own(fields: Mapping[str, bytes]) -> dict[str, Any]:
    return {FIELD_PREFIX + name: as_text(value) for name, value in fields.items()}


async def _write(hold: Hold, contents: dict[str, Any], *arguments: Any) -> Any:
    """Call ``save.lua``, and return what it returns. Raises as :func:`save`."""
    place = place_of(hold.processor)
    token = secrets.token_hex(8)
    about = {"after": hold.token, "token": token, "owner": hold.owner, "lease": int(LEASE * 1000)}
    hold.token = ""
    saved = msgspec.msgpack.encode(about | contents)
    keys = [*place.log, place.state, place.lease]
    reply = await ask(place.server, lambda client: _SAVE.awrite(client, keys, saved, *arguments))
    if reply == -1:
        raise Fenced(hold.processor.name)
    hold.token = token
    return reply


async def keep_states(kind: str, names: Iterable[str]) -> None:
    """Of the states beside a type's log, keep those of these processors; let the others expire.

    Raises ``Unavailable``.
    """
    keys, arguments = [key(f"{{{kind}}}:processors")], (STATE_TTL, _stem(kind), *names)
    server = group_address(kind)[0]
    await ask(server, lambda client: _KEEP.acall(client, keys, *arguments))


class Standing(NamedTuple):
    """Who runs a processor, how far it has read, where its source is, and one field of its state.

    ``None`` where there is nothing yet; an epoch is "" if the source has no log.
    """

    owner: str | None
    position: Position | None
    head: Position
    field: bytes | None

    @property
    def behind(self) -> int | None:
        """How many messages it has not read; ``None`` if nobody knows."""
        if self.position is None or self.position.epoch != self.head.epoch:
            return None
        return max(0, self.head.offset - self.position.offset)


def read_standing(processor: AnyProcessor, field: str) -> Standing:
    """Return how a processor stands, whichever process runs it; from any thread.

    Raises ``Unavailable`` if a server does not answer.
    """
    place = place_of(processor)

    def read(client: redis.Redis) -> Any:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get(place.lease)
            pipeline.hmget(place.state, "epoch", "offset", FIELD_PREFIX + field)
            return pipeline.execute()

    owner, (*position, value) = ask_blocking(place.server, read)
    head: Any = ask_blocking(
        group_address(processor.source)[0],
        lambda client: client.hmget(log_keys(processor.source)[0], "epoch", "offset"),
    )
    return Standing(
        None if owner is None else owner.decode(),
        None if position[0] is None else to_head(position),
        to_head(head),
        value,
    )
