"""The state of processors in Redis, beside the log that they publish to; nothing of their work.

One call saves how far a processor has read and its state, and appends what it publishes: all of it
or nothing. A *lease* says which process runs a processor. It alone would not be safe, since a
process may be paused for longer than its lease and then go on. So the state has a *generation*, a
number that grows each time a process takes the processor over, and only a process with the newest
one can save, like in this example::

    process A    claims, generation 4   reads to 100   ..... paused .....     saves to 100: refused
    process B                                    claims, generation 5   reads to 120   saves to 120

The messages up to 100 count once, as B counted them: A is *fenced* and gives the processor up.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import redis

from realtime.analytics.processing.contract import AnyProcessor
from realtime.cluster.clients import Script, as_text, ask, ask_blocking
from realtime.cluster.layer import group_address, key
from realtime.cluster.servers import Server
from realtime.log.redis import append_arguments, log_keys, to_appended, to_head
from realtime.protocol import Position
from realtime.publishing.publication import Publication

# Seconds without a sign of life after which another process takes a processor over.
LEASE = 6.0
# Seconds for which the state of a processor that nobody runs is kept.
STATE_TTL = 30 * 86_400
# Before the names of a processor's own fields.
FIELD_PREFIX = "f:"

_CLAIM, _RENEW, _SAVE = (
    Script("realtime.analytics.processing", name) for name in ("claim", "renew", "save")
)


class Fenced(Exception):
    """Another process has taken the processor over."""


@dataclass
class Hold:
    """A processor that this process runs, and how far it has read."""

    processor: AnyProcessor
    generation: int
    # What has been taken in, and what has been saved. None before the first message is read.
    position: Position | None
    saved: Position | None
    sequence: int = 0
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
    """Where a processor's state is: the server and Redis channel of its target, and the keys."""

    server: Server
    channel: str
    log: list[str]
    state: str
    lease: str


def place_of(processor: AnyProcessor) -> Place:
    """Return where a processor's state is."""
    kind = processor.target or processor.source
    stem = key(f"{{{kind}}}:processor:{processor.name}")
    return Place(*group_address(kind), log_keys(kind), stem, f"{stem}:lease")


async def claim(processor: AnyProcessor, owner: str) -> Hold | None:
    """Take a processor over and restore it; ``None`` if another process has it.

    The caller must :func:`renew` the lease within :data:`LEASE`. Raises ``Unavailable``.
    """
    place = place_of(processor)
    keeps_state = int(getattr(processor, "keeps_state", False))
    arguments = (owner, int(LEASE * 1000), processor.definition, keeps_state)
    keys = [place.state, place.lease]
    reply = await ask(place.server, lambda client: _CLAIM.acall(client, keys, *arguments))
    if reply is None:
        return None
    state = {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
    position = None
    if "epoch" in state:
        position = Position(state["epoch"].decode(), int(state["offset"]))
    own = [name for name in state if name.startswith(FIELD_PREFIX)]
    processor.restore({name.removeprefix(FIELD_PREFIX): state[name] for name in own})
    return Hold(processor, int(state["generation"]), position, position)


async def renew(processor: AnyProcessor, owner: str, *, give_up: bool = False) -> bool:
    """Keep the lease or give it up; tell whether this process had it. Raises ``Unavailable``."""
    place = place_of(processor)
    arguments = [place.lease], owner, 0 if give_up else int(LEASE * 1000)
    return bool(await ask(place.server, lambda client: _RENEW.acall(client, *arguments)))


async def save(hold: Hold) -> None:
    """Save what has changed and publish, in one step.

    Raises :class:`Fenced` if nothing was saved, as another process has taken the processor over, or
    ``Unavailable`` if it may have been saved: claim it anew, which restores what was saved.
    """
    assert hold.position is not None
    processor, position = hold.processor, hold.position
    changes = processor.save()
    restored_at = position.offset if changes.upto is None else changes.upto
    hold.sequence += 1
    saved = {
        "generation": hold.generation,
        "sequence": hold.sequence,
        "epoch": position.epoch,
        "offset": restored_at,
        "taken": position.offset,
        "ttl": STATE_TTL,
        "fields": {FIELD_PREFIX + name: as_text(value) for name, value in changes.fields.items()},
        "removed": [FIELD_PREFIX + name for name in changes.removed],
    }
    place = place_of(processor)
    arguments: list[Any] = [msgspec.msgpack.encode(saved)]
    publication = None
    if changes.outputs:
        assert processor.target is not None
        publication = Publication(processor.target, list(changes.outputs), None)
        arguments += append_arguments(publication.append, place.channel)
    keys = [*place.log, place.state]
    reply = await ask(place.server, lambda client: _SAVE.awrite(client, keys, *arguments))
    if reply == -1:
        raise Fenced(processor.name)
    hold.saved, hold.saved_at = Position(position.epoch, restored_at), time.monotonic()
    if publication is not None and isinstance(reply, bytes):
        await publication.announce(to_appended(reply))


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
