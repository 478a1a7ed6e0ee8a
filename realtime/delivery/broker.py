"""Between processes: the channel layer's groups, with one channel for each subscription type.

A received message does not say from which group it came, so each type has a channel of its own
(:mod:`realtime.delivery.receiver`). What arrives goes to the type's feed, which puts it in order.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from channels.layers import get_channel_layer

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import check_writing, connection, group_address, renew, uses_redis
from realtime.cluster.servers import Server
from realtime.delivery.feed import Feed, FeedHandler
from realtime.delivery.receiver import RETRY_INTERVAL, Receiver
from realtime.log import get_log
from realtime.monitoring.metrics import Counters
from realtime.tasks import end

logger = logging.getLogger(__name__)

# Seconds until joining a group has failed.
JOIN_TIMEOUT = 5.0
# Seconds between looks at the heads of the logs, and after which a message must have arrived that
# was on its way when its log was asked.
HEAD_INTERVAL = 1.0
GRACE = 0.1
# Seconds between looks at whether groups bring anything.
SILENCE_INTERVAL = 3.0


class Broker:
    """The group memberships of one event loop, and a watch over what they have missed.

    Each server is watched by itself, so that one that hangs delays nothing of the others.
    """

    def __init__(self, handler: FeedHandler, stats: Counters) -> None:
        self._handler = handler
        self._stats = stats
        self._receivers: dict[str, Receiver] = {}
        self._watches: dict[Server, asyncio.Task[object]] = {}
        # Types whose log did not answer when it was last asked, and whose group was silent when it
        # was last probed.
        self._unanswered: set[str] = set()
        self._silent: set[str] = set()

    async def join(self, kind: str) -> None:
        """Become a member of a type's group; return when messages sent from now on arrive.

        Raises ``Unavailable``, with nothing left behind, if the layer does not confirm it in time.
        """
        if kind in self._receivers:
            return
        feed = Feed(kind, get_log(), self._handler)
        receiver = self._receivers[kind] = Receiver(feed)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await receiver.start()
        except BaseException as error:
            await self.leave(kind)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unavailable(str(error) or type(error).__name__) from error
        server = group_address(kind)[0]
        if server not in self._watches:
            watch = asyncio.create_task(self._watch(server), name="broker watch")
            self._watches[server] = watch

    def feed(self, kind: str) -> Feed:
        return self._receivers[kind].feed

    def has_joined(self, kind: str) -> bool:
        """Tell whether messages to a type's group arrive here."""
        receiver = self._receivers.get(kind)
        return receiver is not None and receiver.joined.is_set()

    def is_cut_off(self) -> bool:
        """Tell whether there are groups that should bring something, and none does."""
        return bool(self._receivers) and self._silent >= self._receivers.keys()

    async def leave(self, kind: str) -> None:
        receiver = self._receivers.pop(kind, None)
        self._unanswered.discard(kind)
        self._silent.discard(kind)
        if receiver is not None:
            await receiver.stop()

    async def close(self) -> None:
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            await end(watch)
        for kind in list(self._receivers):
            await self.leave(kind)

    # Watching a server

    async def _watch(self, server: Server) -> None:
        await asyncio.gather(
            self._repeat(lambda: self._look_at_heads(server)),
            self._repeat(lambda: self._look_for_silence(server)),
        )

    async def _repeat(self, look: Callable[[], Awaitable[float]]) -> None:
        """Look again and again; each look returns the seconds until the next."""
        pause = HEAD_INTERVAL
        while True:
            await asyncio.sleep(pause)
            try:
                pause = await look()
            except Unavailable as error:
                logger.warning("messages are late: %s", error)
            except Exception:
                logger.exception("looking at the log")

    def _joined(self, server: Server) -> dict[str, Receiver]:
        return {
            kind: receiver
            for kind, receiver in self._receivers.items()
            if receiver.joined.is_set() and group_address(kind)[0] == server
        }

    def _report(self, about: str, kinds: set[str], asked: Iterable[str], now: set[str]) -> None:
        """Set which of the types that have been asked are among *kinds*; log a change."""
        changed = kinds.difference(asked) | (now & self._receivers.keys())
        if changed != kinds:
            logger.warning("%s: %s", about, ", ".join(sorted(changed)) or "none")
            kinds.clear()
            kinds |= changed

    async def _look_at_heads(self, server: Server) -> float:
        """Compare the heads of a server's logs with what has arrived.

        Without a later message, only the log tells that the last message is missing.
        """
        receivers = self._joined(server)
        feeds = [receiver.feed for receiver in receivers.values()]
        since = {feed: feed.next for feed in feeds}
        heads = await get_log().heads(feed.kind for feed in feeds)
        unanswered = receivers.keys() - heads.keys()
        self._report("logs that do not answer", self._unanswered, receivers, unanswered)
        missing = {
            feed: feed.next
            for feed in feeds
            if feed.kind in heads and feed.is_missing(heads[feed.kind], since[feed])
        }
        if missing:
            # They may be on their way. A feed that moves on notices its gaps by itself.
            await asyncio.sleep(GRACE)
            stuck = [feed for feed, offset in missing.items() if feed.next == offset]
            await asyncio.gather(*(feed.catch_up() for feed in stuck))
        return HEAD_INTERVAL

    async def _look_for_silence(self, server: Server) -> float:
        """Probe a server's groups; where one is silent, or nothing can be sent, connect anew.

        A connection may be dead without a word, or lead to what is a replica since a failover.
        """
        layer = get_channel_layer()
        if not uses_redis(layer):
            return SILENCE_INTERVAL
        receivers = self._joined(server)
        before = connection(layer, server)
        answers = await asyncio.gather(*(receiver.is_silent() for receiver in receivers.values()))
        silent = {kind for kind, is_silent in zip(receivers, answers, strict=True) if is_silent}
        self._report("groups that bring nothing", self._silent, receivers, silent)
        cause = "they bring nothing"
        try:
            if not silent:
                await check_writing(before)
                # Not all processes at the same time: the probes of the first are enough.
                return SILENCE_INTERVAL * random.uniform(0.6, 1)  # noqa: S311 - spreads load
        except Exception as error:
            cause = str(error) or type(error).__name__
        for kind in silent or receivers:
            self._stats.dead_connections[kind] += 1
        try:
            await renew(layer, before)
            logger.warning("another connection for the groups of %r: %s", server, cause)
        except Exception as error:
            logger.debug("no other connection for the groups of %r: %s", server, error)
        return RETRY_INTERVAL
