"""Messages that another system has numbered, appended to a type's log exactly once.

Beside the log is a bit for each number that it has, set in the call that appends. So it does not
matter who brings a message again, when, or together with which others. Knows nothing of the other
systems; :mod:`realtime.publishing.bridge` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from realtime.cluster.clients import Unavailable, ask
from realtime.cluster.layer import group_address
from realtime.cluster.scripts import Script
from realtime.log import read_position
from realtime.log.redis import append_arguments, log_keys
from realtime.publishing import Publication, PublishError

# Numbers in one bitmap of 8 KiB, and seconds for which one is kept after the last was set.
BLOCK = 65_536
BITMAP_TTL = 7 * 86_400

_TAKE = Script("realtime.publishing", "take")


class Numbered(NamedTuple):
    """A payload as JSON text, and its number at its source, from 0."""

    number: int
    body: bytes


async def take(kind: str, source: str, messages: Sequence[Numbered]) -> int:
    """Append those of a source's messages that the log does not have; return how many.

    Raises:
        PublishError: the log may or may not have them; to take them again is safe.
    """
    remaining = [Numbered(*message) for message in dict(messages).items()]
    while remaining:
        reply = await _try(kind, source, remaining)
        if isinstance(reply, bytes):
            return len(remaining)
        present = {place - 1 for place in reply}
        remaining = [message for at, message in enumerate(remaining) if at not in present]
    return 0


async def _try(kind: str, source: str, messages: Sequence[Numbered]) -> Any:
    """Append all messages if the log has none of them; return the reply of ``take.lua``."""
    server, channel = group_address(kind)
    publication = Publication(kind, [message.body for message in messages], None)
    keys = log_keys(kind)
    stem = f"{keys[0]}:taken:{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    places: dict[int, int] = {}
    bits = []
    for message in messages:
        block, bit = divmod(message.number, BLOCK)
        if block not in places:
            keys.append(f"{stem}:{block}")
            places[block] = len(keys)
        bits.append((places[block], bit))
    taken = msgspec.msgpack.encode({"ttl": BITMAP_TTL, "bits": bits})
    arguments = (taken, *append_arguments(publication.append, channel))
    try:
        reply = await ask(server, lambda client: _TAKE.acall(client, keys, *arguments))
    except Unavailable as error:
        raise PublishError(f"the channel layer did not confirm the messages: {error}") from error
    if isinstance(reply, bytes) and not publication.is_announced:
        await publication.announce(read_position(reply.decode()))
    return reply
