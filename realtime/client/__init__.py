"""A client for Python: reconnects, resumes, and hands out every message once.

Needs ``websockets`` and nothing of Django::

    async with StreamingClient("wss://stream.example.com/ws/", token) as client:
        events = await client.subscribe("events", {"carrier": "UA"})
        async for message in events:
            print(message.payload)
"""

from realtime.client.connection import AuthenticationError as AuthenticationError
from realtime.client.connection import State as State
from realtime.client.connection import Token as Token
from realtime.client.streaming import StreamingClient as StreamingClient
from realtime.client.subscription import Closed as Closed
from realtime.client.subscription import Gap as Gap
from realtime.client.subscription import Message as Message
from realtime.client.subscription import Position as Position
from realtime.client.subscription import Refused as Refused
from realtime.client.subscription import StreamingError as StreamingError
from realtime.client.subscription import Subscription as Subscription
