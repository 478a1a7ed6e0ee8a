"""A channel layer that drops, repeats and reorders what it delivers."""

from __future__ import annotations

import os
import random
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer


class LossyLayer(RedisPubSubChannelLayer):  # type: ignore[misc]
    """The pub/sub layer, unreliable: of ten messages it drops, repeats and holds back one each.

    Publishers send as with the layer it wraps; messages are lost where they are received.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._random = random.Random(os.environ.get("LOSSY_SEED"))
        # Channel -> messages that were received already, to be given later.
        self._held: dict[str, list[dict[str, Any]]] = {}

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return a message that was sent, some time or other."""
        held = self._held.setdefault(channel, [])
        if held and self._random.random() < 0.5:
            return held.pop(self._random.randrange(len(held)))
        while True:
            message: dict[str, Any] = await self._get_layer().receive(channel)
            chance = self._random.random()
            if chance < 0.1:
                continue
            if chance < 0.2:
                held.append(message)
                continue
            if chance < 0.3:
                held.append(message)
            return message
