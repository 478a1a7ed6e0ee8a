"""A server with the ``websockets`` library: ``gather`` or ``broadcast`` PORT INTAKE.

``gather`` encodes and awaits a send per client, all clients of a message at once, as the API
document's "asyncio.gather for concurrent message delivery" says. ``broadcast`` encodes once per
subscription id and uses the library's own ``broadcast``. Events come in as JSON lines on INTAKE.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast, serve

# Subscription id -> the connections that have it.
subscribers: dict[str, set[ServerConnection]] = {}


async def converse(client: ServerConnection) -> None:
    """Answer ``auth`` and ``subscribe`` until the client goes."""
    subscription_id = ""
    async for text in client:
        message = json.loads(text)
        if message["type"] == "auth" and message["data"]["token"] == "benchmark":
            await client.send('{"type":"auth_success","data":{"client_id":"1"}}')
        elif message["type"] == "subscribe":
            subscription_id = message.get("subscription_id", "events")
            subscribers.setdefault(subscription_id, set()).add(client)
            await client.send(f'{{"type":"subscribed","subscription_id":"{subscription_id}"}}')
    clients = subscribers.get(subscription_id, set())
    clients.discard(client)
    if not clients:
        subscribers.pop(subscription_id, None)


def data_message(event: dict[str, Any], offset: int) -> dict[str, Any]:
    """Return the message around an event."""
    return {
        "type": "data",
        "data": {"event": event, "subscription_type": "events"},
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "metadata": {"epoch": "benchmark", "offset": offset},
    }


async def gather_all(message: dict[str, Any]) -> None:
    """Encode and send for each client, and wait for all of them."""
    sends = [
        client.send(json.dumps(message | {"subscription_id": subscription_id}))
        for subscription_id, clients in subscribers.items()
        for client in clients
    ]
    await asyncio.gather(*sends, return_exceptions=True)


async def broadcast_all(message: dict[str, Any]) -> None:
    """Encode once per subscription id and let the library write to its clients."""
    head = json.dumps(message)[:-1]
    for subscription_id, clients in subscribers.items():
        broadcast(clients, f'{head}, "subscription_id": "{subscription_id}"}}')


async def main(design: str, port: int, intake: int) -> None:
    """Serve until the process is ended."""
    send = {"gather": gather_all, "broadcast": broadcast_all}[design]

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        offset = 0
        while line := await reader.readline():
            offset += 1
            await send(data_message(json.loads(line), offset))
            await asyncio.sleep(0)  # replies and new connections get their turn
        writer.close()

    async with serve(converse, "127.0.0.1", port, compression=None, ping_interval=None):
        server = await asyncio.start_server(take, "127.0.0.1", intake)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
