"""Checks of server-sent events."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from realtime.conformance.catalogue import (
    TYPES,
    Scene,
    Skip,
    check,
    expect,
    expect_keys,
    expect_that,
    not_checked,
)

Result = TypeVar("Result")

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


class Event(NamedTuple):
    """An event as it came."""

    name: str
    id: str
    data: Any


class Stream:
    """An open event stream; its methods block."""

    def __init__(self, url: str, token: str | None, timeout: float, **headers: str) -> None:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        self.response = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310

    def next(self) -> Event:
        """Return the next event that has data."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline()
            if not line:
                raise ConnectionError("the stream has ended")
            text = line.decode().rstrip("\r\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                data = json.loads(fields["data"])
                return Event(fields.get("event", ""), fields.get("id", ""), data)
            else:
                fields = {}


async def blocking(work: Callable[[], Result]) -> Result:
    """Do what blocks elsewhere."""
    return await asyncio.to_thread(work)


async def open_stream(scene: Scene, headers: dict[str, str] | None = None, **query: str) -> Stream:
    """Open a stream with the token."""
    url = scene.stream_url(scene.kind, **query)
    return await blocking(lambda: Stream(url, scene.token, scene.timeout, **(headers or {})))


async def refusal(scene: Scene, kind: str, credential: str | None, **query: str) -> tuple[int, Any]:
    """Return status and body of a stream that is refused."""

    def ask() -> tuple[int, Any]:
        try:
            Stream(scene.stream_url(kind, **query), credential, scene.timeout).response.close()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        return 200, None

    return await blocking(ask)


def mark(scene: Scene) -> str:
    """Return the filter of this run's messages as a parameter."""
    return json.dumps(scene.filters)


@check("parameter Authorization: Bearer TOKEN")
async def _bearer(scene: Scene) -> None:
    """The stream is text/event-stream and not cached."""
    stream = await open_stream(scene)
    with stream.response as response:
        expect("status", response.status, 200)
        kind = response.headers["Content-Type"].split(";")[0]
        expect("Content-Type", kind, "text/event-stream")
        expect_that(
            "Cache-Control: no-store or no-cache",
            response.headers.get("Cache-Control", "").split(",")[0] in ("no-store", "no-cache"),
            response.headers.get("Cache-Control"),
        )


@check("event subscribed")
async def _subscribed(scene: Scene) -> None:
    """The first event is the answer to subscribe, with the position as its id."""
    stream = await open_stream(scene, filter=mark(scene))
    with stream.response:
        event = await blocking(stream.next)
        expect("the first event", event.name, "subscribed")
        keys = {"type", "filters", "epoch", "offset", "recovered", "replayed"}
        expect_keys("its data", event.data["data"], keys, frozenset())
        data = event.data["data"]
        expect("its id", event.id, f"{data['epoch']}:{data['offset']}")


@check("event without a name")
async def _message(scene: Scene) -> None:
    """A message is an event without a name, with its position as id."""
    stream = await open_stream(scene, filter=mark(scene))
    with stream.response:
        await blocking(stream.next)
        await scene.publish(scene.kind, {"n": 1})
        event = await blocking(stream.next)
        expect("name", event.name, "")
        expect("type", event.data["type"], "data")
        place = event.data["metadata"]
        expect("id", event.id, f"{place['epoch']}:{place['offset']}")


@check("parameter filter")
async def _filter(scene: Scene) -> None:
    """PATH=VALUE, repeated, where the value is JSON if it parses."""
    url = scene.stream_url(scene.kind) + "filter=n=1&filter=n=x&filter=deep.a=true"
    stream = await blocking(lambda: Stream(url, scene.token, scene.timeout))
    with stream.response:
        event = await blocking(stream.next)
        received = event.data["data"]["filters"]
        expect("the filters", received, {"n": [1, "x"], "deep.a": True})


@check("parameter Last-Event-ID")
async def _last_event_id(scene: Scene) -> None:
    """Everything that matches after that position, in the header or in the query."""
    stream = await open_stream(scene, filter=mark(scene))
    with stream.response:
        start = await blocking(stream.next)
        await scene.publish(scene.kind, {"n": 1}, {"n": 2})
        first = await blocking(stream.next)
    for headers, query in (({"Last-Event-ID": start.id}, {}), ({}, {"last_event_id": start.id})):
        stream = await open_stream(scene, headers, filter=mark(scene), **query)
        with stream.response:
            event = await blocking(stream.next)
            expect("recovered", event.data["data"]["recovered"], True)
            expect("replayed", event.data["data"]["replayed"], 2)
            event = await blocking(stream.next)
            expect("the first message", event, first)


@check("parameter rewind")
async def _rewind(scene: Scene) -> None:
    """The newest so many messages that match."""
    await scene.publish(scene.kind, {"n": 1}, {"n": 2})
    stream = await open_stream(scene, filter=mark(scene), rewind="1")
    with stream.response:
        event = await blocking(stream.next)
        expect("replayed", event.data["data"]["replayed"], 1)


@check("parameter explain")
async def _explain(scene: Scene) -> None:
    """The first event says what of the newest messages matches."""
    stream = await open_stream(scene, filter=mark(scene), explain="1")
    with stream.response:
        event = await blocking(stream.next)
        wanted = {"retained", "matching", "paths"}
        expect_keys("explain", event.data["data"].get("explain"), wanted, frozenset())


@check("status 400")
async def _bad_request(scene: Scene) -> None:
    """Wrong filters, positions and rewinds, and an access token in the query."""
    for query in ({"filter": "a..b=1"}, {"last_event_id": "nothing"}, {"rewind": "1001"}):
        status, body = await refusal(scene, scene.kind, scene.token, **query)
        expect(f"the status of {query}", status, 400)
        expect(f"the code of {query}", body["code"], "invalid_subscription")
    if scene.token is not None and scene.token.startswith("rt_"):
        status, body = await refusal(scene, scene.kind, None, token=scene.token)
        expect("the status of an access token in the query", status, 400)


@check("status 401")
async def _unauthorized(scene: Scene) -> None:
    """A token that is wrong."""
    status, body = await refusal(scene, scene.kind, "rt_wrong")
    expect("the status", status, 401)
    expect("the code", body["code"], "invalid_credentials")


@check("status 403")
async def _not_permitted(scene: Scene) -> None:
    """A type that the token does not allow."""
    others = [kind for kind in TYPES if kind not in scene.allowed]
    if not others:
        raise Skip("the token allows all types: give one that does not")
    status, body = await refusal(scene, others[0], scene.token)
    expect("the status", status, 403)
    expect("the code", body["code"], "forbidden")


@check("status 404")
async def _not_found(scene: Scene) -> None:
    """A type that there is not."""
    status, body = await refusal(scene, "nothing", scene.token)
    expect("the status", status, 404)
    expect("the code", body["code"], "invalid_subscription")
