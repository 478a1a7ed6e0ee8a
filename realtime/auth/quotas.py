"""The connections of one token, counted over all processes.

A set in Redis for each holder of rights whose connections are limited: a member for each
connection, with the process that has it. Members of processes that are gone do not count, so
nothing needs renewing connection by connection. Where Redis does not answer, each process counts
its own (:meth:`realtime.sessions.connections.Roster.bind` does so in any case).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import redis
from channels.layers import get_channel_layer

from realtime.auth.grants import Grant
from realtime.cluster.clients import async_client, registry
from realtime.cluster.membership import GONE_AFTER, key, processes_key
from realtime.cluster.servers import Server, has_servers
from realtime.tasks import Spawn

logger = logging.getLogger(__name__)

# Seconds. An answer that comes later is not waited for.
TIMEOUT = 1.0
# Seconds after which a set that nobody adds to is forgotten, and how often ours are added again.
TTL = 3600
ASSERT_INTERVAL = TTL / 4

# Keys: the holder's connections, the processes. Arguments: the connection, its process, the limit,
# seconds until a process is gone, seconds to keep the set. A member is the connection's id (36
# characters), a space and its process. Returns whether there is room.
_ACQUIRE = """
local now = tonumber(redis.call('TIME')[1])
local member = ARGV[1] .. ' ' .. ARGV[2]
local count = 0
for _, known in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local process = string.sub(known, 38)
  local last = redis.call('ZSCORE', KEYS[2], process)
  if process ~= ARGV[2] and (not last or now - last >= tonumber(ARGV[4])) then
    redis.call('SREM', KEYS[1], known)
  elseif known ~= member then
    count = count + 1
  end
end
if count >= tonumber(ARGV[3]) then return 0 end
redis.call('SADD', KEYS[1], member)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""


def _set_key(holder: str) -> str:
    return key(f"connections:{holder}")


class Leases:
    """What this process's connections hold of their holders' limits. One for each event loop."""

    def __init__(self, process: str, spawn: Spawn) -> None:
        self._process = process
        self._spawn = spawn
        # Connection -> the holder of its rights.
        self._held: dict[str, str] = {}
        # Holder and connection -> whether Redis is to have it; what has not been written yet.
        self._changes: dict[tuple[str, str], bool] = {}
        self._writing = False

    async def acquire(self, connection: str, grant: Grant) -> bool:
        """Take one of the connections that a grant allows; tell whether there was one.

        At once if the grant has no limit.
        """
        if grant.max_connections is None or not has_servers(get_channel_layer()):
            return True
        try:
            with registry.asking() as server:
                async with asyncio.timeout(TIMEOUT):
                    has_room = await self._ask(
                        server, connection, grant.holder, grant.max_connections
                    )
        except (redis.RedisError, OSError) as error:  # a TimeoutError is an OSError
            logger.warning("counting the connections of %s: %s", grant.holder, error or "no answer")
            self.hold(connection, grant)
            return True
        if has_room:
            self._set(connection, grant.holder)
            self._changes.pop((grant.holder, connection), None)
        return has_room

    async def _ask(self, server: Server, connection: str, holder: str, limit: int) -> bool:
        client = await async_client(server)
        keys = (_set_key(holder), processes_key())
        arguments = (connection, self._process, limit, GONE_AFTER, TTL)
        return bool(await client.eval(_ACQUIRE, 2, *keys, *arguments))

    def hold(self, connection: str, grant: Grant) -> None:
        """Count a connection that is there, room or not: its grant may have a limit by now."""
        if grant.max_connections is None or self._held.get(connection) == grant.holder:
            return
        self._set(connection, grant.holder)
        self._change(grant.holder, connection, True)

    def _set(self, connection: str, holder: str) -> None:
        if self._held.get(connection, holder) != holder:
            self.release(connection)
        self._held[connection] = holder

    def release(self, connection: str) -> None:
        """Give back what a connection held; once or more."""
        holder = self._held.pop(connection, None)
        if holder is not None:
            self._change(holder, connection, False)

    def _change(self, holder: str, connection: str, is_held: bool) -> None:
        self._changes[holder, connection] = is_held
        if not self._writing:
            self._writing = True
            self._spawn(self._write_soon())

    async def _write_soon(self) -> None:
        try:
            await asyncio.sleep(0)  # many end together
            with contextlib.suppress(redis.RedisError, OSError):
                await self.write()
        finally:
            self._writing = False

    async def write(self) -> None:
        """Write what has changed; what fails is kept for the next call.

        Raises:
            redis.RedisError, OSError: Redis does not answer.
        """
        if not self._changes or not has_servers(get_channel_layer()):
            return
        changes = dict(self._changes)
        with registry.asking() as server:
            pipeline = (await async_client(server)).pipeline(transaction=False)
            for (holder, connection), is_held in changes.items():
                member = f"{connection} {self._process}"
                if is_held:
                    pipeline.sadd(_set_key(holder), member)
                    pipeline.expire(_set_key(holder), TTL)
                else:
                    pipeline.srem(_set_key(holder), member)
            await pipeline.execute()
        for change, is_held in changes.items():
            if self._changes.get(change) is is_held:
                del self._changes[change]

    async def write_all(self) -> None:
        """Write everything that is held again: Redis may have forgotten, or taken us for gone.

        Raises:
            redis.RedisError, OSError: Redis does not answer.
        """
        for connection, holder in self._held.items():
            self._changes[holder, connection] = True
        await self.write()
