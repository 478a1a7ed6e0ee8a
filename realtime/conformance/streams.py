"""Checks of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from realtime.conformance import expect
from realtime.conformance.catalogue import Scene, check, not_checked

not_checked(
    "a client cannot make a server lose messages, restart, or withdraw its rights",
    "event data_lost",
    "event restarting",
    "event unsubscribed",
    "event close",
    "status 503",
)
not_checked("it depends on the token's limit of connections", "status 429")
not_checked("it needs a credential of short life", "parameter token")


class ServerSentEvent(NamedTuple):
    """An event as it came."""

    name: str
    id: str
    data: Any


class EventStreamReader:
    """An open event stream."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def next(self) -> ServerSentEvent:
        """Return the next event that has data."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> ServerSentEvent:
        fields: dict[str, str] = {}
        while line := self.response.readline():
            text = line.decode().rstrip("\r\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                data = json.loads(fields["data"])
                return ServerSentEvent(fields.get("event", ""), fields.get("id", ""), data)
            else:
                fields = {}
        raise ConnectionError("the stream has ended")


async def _get(scene: Scene, url: str, token: str | None, headers: dict[str, str]) -> Any:
    """Return the open response of a stream. Raises ``HTTPError`` if it is refused."""
    if token is not None:
        headers = headers | {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the user's address
    return await asyncio.to_thread(urllib.request.urlopen, request, timeout=scene.timeout)


@contextlib.asynccontextmanager
async def open_stream(
    scene: Scene, parameters: Mapping[str, str] = {}, *, query: str = "", last_event_id: str = ""
) -> AsyncIterator[EventStreamReader]:
    """Open a stream of this run's messages; with *query*, of what that asks for.

    *last_event_id* is sent as a header, if it is not empty.
    """
    parameters = {"filter": json.dumps(scene.filters)} | dict(parameters)
    url = scene.stream_url(scene.kind, query or urllib.parse.urlencode(parameters))
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with await _get(scene, url, scene.token, headers) as response:
        yield EventStreamReader(response)


async def expect_refusal(
    scene: Scene, status: int, code: str | None, *, kind: str, bearer: str | None, **query: str
) -> None:
    """Expect that no stream of a type is opened; if *code* is None, for whatever reason."""
    url = scene.stream_url(kind, urllib.parse.urlencode(query))
    received, body = 200, {"code": ""}
    try:
        (await _get(scene, url, bearer, {})).close()
    except urllib.error.HTTPError as error:
        with error:
            received, body = error.code, json.loads(error.read())
    expect.equal(f"the status with {query}", received, status)
    expect.equal(f"the code with {query}", body["code"], code or body["code"])


async def expect_wrong(scene: Scene, **query: str) -> None:
    """Expect that parameters are refused as an invalid subscription."""
    code, kind = "invalid_subscription", scene.kind
    await expect_refusal(scene, 400, code, kind=kind, bearer=scene.token, **query)


@check("parameter Authorization: Bearer TOKEN")
async def _bearer(scene: Scene) -> None:
    """The stream is text/event-stream and not cached."""
    async with open_stream(scene) as stream:
        headers = stream.response.headers
        expect.equal("status", stream.response.status, 200)
        expect.equal("Content-Type", headers["Content-Type"].split(";")[0], "text/event-stream")
        cache = headers.get("Cache-Control", "")
        is_uncached = cache.split(",")[0] in ("no-store", "no-cache")
        expect.that("Cache-Control: no-store or no-cache", is_uncached, cache)


@check("event subscribed")
async def _subscribed(scene: Scene) -> None:
    """The first event is the answer to subscribe, with the position as its id."""
    async with open_stream(scene) as stream:
        event = await stream.next()
        expect.equal("the first event", event.name, "subscribed")
        data = event.data["data"]
        expect.keys("its data", data, expect.SUBSCRIBED)
        expect.equal("its id", event.id, f"{data['epoch']}:{data['offset']}")


@check("event without a name")
async def _message(scene: Scene) -> None:
    """A message is an event without a name, with its position as id."""
    async with open_stream(scene) as stream:
        await stream.next()
        await scene.publish_numbers([1])
        event = await stream.next()
        expect.equal("name", event.name, "")
        expect.equal("type", event.data["type"], "data")
        place = event.data["metadata"]
        expect.equal("id", event.id, f"{place['epoch']}:{place['offset']}")


@check("parameter filter")
async def _filter(scene: Scene) -> None:
    """PATH=VALUE, repeated, where the value is JSON if it parses."""
    async with open_stream(scene, query="filter=n=1&filter=n=x&filter=deep.a=true") as stream:
        event = await stream.next()
        expect.equal("the filters", event.data["data"]["filters"], {"n": [1, "x"], "deep.a": True})


@check("parameter Last-Event-ID")
async def _last_event_id(scene: Scene) -> None:
    """Everything that matches after that position, in the header or in the query."""
    async with open_stream(scene) as stream:
        start = await stream.next()
        await scene.publish_numbers([1, 2])
        first = await stream.next()
    again = open_stream(scene, last_event_id=start.id)
    for opening in (again, open_stream(scene, {"last_event_id": start.id})):
        async with opening as stream:
            event = await stream.next()
            expect.equal("recovered", event.data["data"]["recovered"], True)
            expect.equal("replayed", event.data["data"]["replayed"], 2)
            expect.equal("the first message", await stream.next(), first)


@check("parameter rewind")
async def _rewind(scene: Scene) -> None:
    """The newest so many messages that match."""
    await scene.publish_numbers([1, 2])
    async with open_stream(scene, {"rewind": "1"}) as stream:
        event = await stream.next()
        expect.equal("replayed", event.data["data"]["replayed"], 1)


@check("parameter explain")
async def _explain(scene: Scene) -> None:
    """The first event says what of the newest messages matches."""
    async with open_stream(scene, {"explain": "1"}) as stream:
        event = await stream.next()
        expect.keys("explain", event.data["data"].get("explain"), {"retained", "matching", "paths"})


@check("status 400")
async def _bad_request(scene: Scene) -> None:
    """Wrong filters, positions and rewinds, and an access token in the query."""
    for query in ({"filter": "a..b=1"}, {"last_event_id": "nothing"}, {"rewind": "1001"}):
        await expect_wrong(scene, **query)
    if scene.token is not None and scene.token.startswith("rt_"):
        token = scene.token
        await expect_refusal(scene, 400, None, kind=scene.kind, bearer=None, token=token)


def _check_status(
    status: int, about: str, code: str, kind: Callable[[Scene], str], bearer: str = ""
) -> None:
    @check(f"status {status}", about)
    async def body(scene: Scene) -> None:
        await expect_refusal(scene, status, code, kind=kind(scene), bearer=bearer or scene.token)


_check_status(
    401, "A token that is wrong", "invalid_credentials", lambda scene: scene.kind, "rt_wrong"
)
_check_status(403, "A type that the token does not allow", "forbidden", Scene.forbidden_type)
_check_status(404, "A type that there is not", "invalid_subscription", lambda scene: "nothing")
