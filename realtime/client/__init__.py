"""A client for Python: reconnects, resumes, and hands out every message once.

Needs ``websockets`` and nothing of Django::

    async with StreamingClient("wss://stream.example.com/ws/", token) as client:
        events = await client.subscribe("events", {"carrier": "UA"})
        async for message in events:
            print(message.payload)
"""

from realtime.client.contract import (
    AuthenticationError,
    Closed,
    Gap,
    Message,
    Position,
    Refused,
    State,
    StreamingError,
    Token,
)
from realtime.client.streaming import StreamingClient
from realtime.client.subscription import Subscription

__all__ = [
    "AuthenticationError",
    "Closed",
    "Gap",
    "Message",
    "Position",
    "Refused",
    "State",
    "StreamingClient",
    "StreamingError",
    "Subscription",
    "Token",
]
