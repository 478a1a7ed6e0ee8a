"""Checks of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import Message, Scene, check
from realtime.conformance.options import OPTIONS

# Option -> a parameter that gives what is in force in OPTIONS, and a wrong one.
PARAMETERS = {
    "max_rate": ("0.2", "0"),
    "conflate": ("deep.host", "a..b"),
    "fields": ("deep.host,n", "a,,b"),
    "on_overflow": ("drop", "wait"),
}


async def _get(scene: Scene, kind: str, headers: Mapping[str, str], **query: Any) -> Any:
    """Return the open response of a stream. Raises ``HTTPError`` if it is refused."""
    if scene.token is not None:
        headers = {**headers, "Authorization": f"Bearer {scene.token}"}
    path = f"/api/stream/{kind}?{urllib.parse.urlencode(query, doseq=True, safe='=')}"
    url = urllib.parse.urljoin(f"http{scene.url.removeprefix('ws')}", path)
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the user's address
    return await asyncio.to_thread(urllib.request.urlopen, request, timeout=scene.timeout)


@contextlib.asynccontextmanager
async def open_stream(
    scene: Scene, headers: Mapping[str, str] = {}, **query: Any
) -> AsyncIterator[Any]:
    """Open a stream, of this run's messages unless a filter is named; yield the response."""
    query = {"filter": json.dumps(scene.filters)} | query
    with await _get(scene, scene.kind, headers, **query) as response:
        yield response


async def next_event(response: Any) -> tuple[str, str, Any]:
    """Return the name, the id and the data of a stream's next event that has data."""
    fields: dict[str, str] = {}
    while line := await asyncio.to_thread(response.readline):
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            return fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
        else:
            fields = {}
    raise ConnectionError("the stream has ended")


async def first_data(scene: Scene, **query: Any) -> Message:
    """Open a stream and return the data of its first event, the answer to subscribe."""
    async with open_stream(scene, **query) as stream:
        _, _, message = await next_event(stream)
    data: Message = message["data"]
    return data


async def expect_refusal(
    scene: Scene, status: int, code: str | None, *, kind: str = "", **query: Any
) -> None:
    """Expect that no stream is opened; if *code* is None, for whatever reason."""
    received, body = 200, {"code": ""}
    try:
        (await _get(scene, kind or scene.kind, {}, **query)).close()
    except urllib.error.HTTPError as error:
        with error:
            received, body = error.code, json.loads(error.read())
    expect.equal(f"the status with {query}", received, status)
    expect.equal(f"the code with {query}", body["code"], code or body["code"])


@check("parameter Authorization: Bearer TOKEN")
async def _bearer(scene: Scene) -> None:
    """The stream is text/event-stream and not cached."""
    async with open_stream(scene) as stream:
        headers = stream.headers
        expect.equal("status", stream.status, 200)
        expect.equal("Content-Type", headers["Content-Type"].split(";")[0], "text/event-stream")
        cache = headers.get("Cache-Control", "")
        is_uncached = cache.split(",")[0] in ("no-store", "no-cache")
        expect.that("Cache-Control: no-store or no-cache", is_uncached, cache)


@check("event subscribed")
async def _subscribed(scene: Scene) -> None:
    """The first event is the answer to subscribe, with the position as its id."""
    async with open_stream(scene) as stream:
        name, id, message = await next_event(stream)
        expect.equal("the first event", name, "subscribed")
        data = message["data"]
        expect.keys("its data", data, expect.SUBSCRIBED)
        expect.equal("its id", id, f"{data['epoch']}:{data['offset']}")


@check("event without a name")
async def _message(scene: Scene) -> None:
    """A message is an event without a name, with its position as id."""
    async with open_stream(scene) as stream:
        await next_event(stream)
        await scene.publish_numbers([1])
        name, id, message = await next_event(stream)
        expect.equal("name and type", [name, message["type"]], ["", "data"])
        place = message["metadata"]
        expect.equal("id", id, f"{place['epoch']}:{place['offset']}")


@check("parameter filter")
async def _filter(scene: Scene) -> None:
    """PATH=VALUE, repeated, where the value is JSON if it parses."""
    answer = await first_data(scene, filter=["n=1", "n=x", "deep.a=true"])
    expect.equal("the filters", answer["filters"], {"n": [1, "x"], "deep.a": True})


@check("parameter Last-Event-ID")
async def _last_event_id(scene: Scene) -> None:
    """Everything that matches after that position, in the header or in the query."""
    async with open_stream(scene) as stream:
        _, start, _ = await next_event(stream)
        await scene.publish_numbers([1, 2])
        first = await next_event(stream)
    again = open_stream(scene, {"Last-Event-ID": start})
    for opening in (again, open_stream(scene, last_event_id=start)):
        async with opening as stream:
            _, _, message = await next_event(stream)
            expect.equal("recovered", message["data"]["recovered"], True)
            expect.equal("replayed", message["data"]["replayed"], 2)
            expect.equal("the first message", await next_event(stream), first)


@check("parameter rewind")
async def _rewind(scene: Scene) -> None:
    """The newest so many messages that match."""
    await scene.publish_numbers([1, 2])
    expect.equal("replayed", (await first_data(scene, rewind="1"))["replayed"], 1)


@check("parameter explain")
async def _explain(scene: Scene) -> None:
    """The first event says what of the newest messages matches."""
    answer = await first_data(scene, explain="1")
    expect.keys("explain", answer.get("explain"), {"retained", "matching", "paths"})


@check(*(f"parameter {option}" for option in PARAMETERS))
async def _option(scene: Scene, row: str) -> None:
    """The option is in force, and a wrong value is refused."""
    right, wrong = PARAMETERS[row]
    answer = await first_data(scene, **{row: right})
    expect.equal("the options in force", answer.get("options"), OPTIONS[row][0])
    await expect_refusal(scene, 400, "invalid_subscription", **{row: wrong})


@check("status 400")
async def _bad_request(scene: Scene) -> None:
    """Wrong filters, positions and rewinds, and an access token in the query."""
    for query in ({"filter": "a..b=1"}, {"last_event_id": "nothing"}, {"rewind": "1001"}):
        await expect_refusal(scene, 400, "invalid_subscription", **query)
    if scene.token is not None and scene.token.startswith("rt_"):
        await expect_refusal(replace(scene, token=None), 400, None, token=scene.token)


@check("status 401")
async def _unauthorized(scene: Scene) -> None:
    """A token that is wrong."""
    wrong = replace(scene, token="rt_wrong")  # noqa: S106 - it opens nothing
    await expect_refusal(wrong, 401, "invalid_credentials")


@check("status 403")
async def _forbidden(scene: Scene) -> None:
    """A type that the token does not allow."""
    await expect_refusal(scene, 403, "forbidden", kind=scene.forbidden_type())


@check("status 404")
async def _not_found(scene: Scene) -> None:
    """A type that there is not."""
    await expect_refusal(scene, 404, "invalid_subscription", kind="nothing")
