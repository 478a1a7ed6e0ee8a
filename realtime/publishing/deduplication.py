"""Messages that another system has numbered, taken into a type's log once, however often they come.

Which numbers the log has is kept beside it, a bit each, and set in the call that appends. So it
does not matter who brings a message again, when, or together with which others. Knows nothing of
the systems; what follows them is in :mod:`realtime.publishing.bridge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import Redis

from realtime.cluster.servers import group_address
from realtime.log import LogUnavailable, read_position
from realtime.log.redis import APPEND_FUNCTION, append_arguments, ask, log_keys
from realtime.publishing import Publication, PublishError

# Numbers in one bitmap of 8 KiB, and seconds for which one is kept after the last was set.
BLOCK = 65_536
KEPT = 7 * 86_400

# Keys: those of append(), then bitmaps. Arguments: seconds to keep these, how many messages; for
# each the place of its bitmap among the keys, and its bit; then those of append(). Returns which of
# the messages, counted from 1, there are already, and appends none if there are any; else the
# first position.
_TAKE = (
    APPEND_FUNCTION
    + """
local count = tonumber(ARGV[2])
local known = {}
for i = 1, count do
  if redis.call('GETBIT', KEYS[tonumber(ARGV[2 * i + 1])], ARGV[2 * i + 2]) == 1 then
    known[#known + 1] = i
  end
end
if #known > 0 then return known end
local position = append(2 * count + 3)
for i = 1, count do
  redis.call('SETBIT', KEYS[tonumber(ARGV[2 * i + 1])], ARGV[2 * i + 2], 1)
end
for i = 3, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return position
"""
)


class Numbered(NamedTuple):
    """A payload as JSON text, and its number at its source, from 0."""

    number: int
    body: bytes


async def take(kind: str, source: str, messages: Sequence[Numbered]) -> int:
    """Append those of a source's messages that the log does not have; return how many.

    Raises:
        PublishError: the log may or may not have them; to take them again is safe.
    """
    left = list(dict(messages).items())
    while left:
        reply = await _try(kind, source, [Numbered(*one) for one in left])
        if isinstance(reply, bytes):
            return len(left)
        known = {place - 1 for place in reply}
        left = [one for place, one in enumerate(left) if place not in known]
    return 0


async def _try(kind: str, source: str, messages: Sequence[Numbered]) -> Any:
    server, channel = group_address(kind)
    publication = Publication(kind, [one.body for one in messages], None)
    keys = log_keys(kind)
    stem = f"{keys[0]}:taken:{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    places: dict[int, int] = {}
    arguments: list[Any] = [KEPT, len(messages)]
    for one in messages:
        block, bit = divmod(one.number, BLOCK)
        if block not in places:
            keys.append(f"{stem}:{block}")
            places[block] = len(keys)
        arguments += (places[block], bit)
    arguments += append_arguments(publication.append, channel)
    try:
        reply = await ask(server, partial(_run, keys, arguments))
    except LogUnavailable as error:
        raise PublishError(f"the channel layer did not confirm the messages: {error}") from error
    if isinstance(reply, bytes) and not publication.is_announced:
        await publication.announce(read_position(reply.decode()))
    return reply


async def _run(keys: Sequence[str], arguments: Sequence[Any], client: Redis) -> Any:
    return await client.register_script(_TAKE)(keys, arguments)
