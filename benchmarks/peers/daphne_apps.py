"""ASGI applications for stock Daphne: the textbook Channels consumer, and one without Channels.

``textbook`` is what Channels' tutorial leads to: every consumer joins the group and answers each
group message with ``send_json``. Its authentication compares a string, so costs no query.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        INSTALLED_APPS=[],
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [f"unix://{os.environ.get('TEXTBOOK_VALKEY', '')}"]},
            }
        },
    )
    django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

GROUP = "events"


class TextbookConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """A member of the group of its subscription type, with its own copy of each message."""

    subscription_id = "events"

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        """Answer ``auth`` and ``subscribe``."""
        if content["type"] == "auth":
            if content["data"]["token"] == "benchmark":
                await self.send_json({"type": "auth_success", "data": {"client_id": "1"}})
        elif content["type"] == "subscribe":
            self.subscription_id = content.get("subscription_id", self.subscription_id)
            await self.channel_layer.group_add(GROUP, self.channel_name)
            await self.send_json({"type": "subscribed", "subscription_id": self.subscription_id})

    async def disconnect(self, code: int) -> None:
        """Leave the group."""
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def stream_message(self, message: dict[str, Any]) -> None:
        """Send a group message to this client."""
        await self.send_json(
            {
                "type": "data",
                "data": {"event": message["event"], "subscription_type": "events"},
                "timestamp": message["timestamp"],
                "metadata": {"epoch": "benchmark", "offset": message["offset"]},
                "subscription_id": self.subscription_id,
            }
        )


textbook = ProtocolTypeRouter({"websocket": URLRouter([path("", TextbookConsumer.as_asgi())])})


async def bare(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Accept and answer, and nothing else: what Daphne itself costs."""
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            asked = json.loads(message["text"])["type"]
            answer = {"auth": "auth_success", "subscribe": "subscribed"}[asked]
            await send({"type": "websocket.send", "text": json.dumps({"type": answer})})
        else:
            return
