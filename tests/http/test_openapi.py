"""``/api/openapi.json`` describes the paths there are, and what they answer."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from realtime import urls
from realtime.http.event_stream import PREFIX as STREAM_PREFIX
from realtime.http.publish import MAX_KEY
from realtime.http.publish import PREFIX as PUBLISH_PREFIX
from realtime.protocol import ERROR_TEXTS, PAYLOAD_KEYS, SUBSCRIPTION_TYPES, ErrorCode
from realtime.protocol.subscribe import MAX_RATE, MIN_RATE, read_start
from realtime.sessions.readiness import DATABASE, DRAINING, LAYER
from realtime.views import read_openapi
from tests.end_to_end.event_source import event_source, subscribed
from tests.end_to_end.poster import NDJSON, post
from tests.support import Server

API = read_openapi() | {"servers": [{"url": "/"}]}
SCHEMAS = API["components"]["schemas"]
# Codes of errors that only HTTP has.
HTTP_CODES = {
    *("invalid_credentials", "length_required", "method_not_allowed", "timeout", "too_large"),
    "unsupported_media_type",
}


def check(schema: dict[str, Any], value: Any) -> None:
    """Check a value against a schema of the description."""
    Draft202012Validator({**schema, "components": API["components"]}).validate(value)


def answer_schema(path: str, method: str, status: int) -> dict[str, Any]:
    """Return the schema of an answer in JSON."""
    response = API["paths"][path][method]["responses"][str(status)]
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    return schema


def get(server: Server, path: str) -> tuple[int, str, bytes]:
    """Return status, type and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_it_is_openapi() -> None:
    OpenAPIV31SpecValidator(API).validate()


def test_every_path_is_described() -> None:
    served = {f"/{pattern.pattern}" for pattern in urls.urlpatterns}
    served |= {STREAM_PREFIX + "{type}", PUBLISH_PREFIX + "{type}"}
    assert served == set(API["paths"])


def parameter(path: str, method: str, name: str) -> dict[str, Any]:
    """Return the schema of a parameter."""
    parameters = API["paths"][path][method]["parameters"]
    [schema] = [part["schema"] for part in parameters if part["name"] == name]
    assert isinstance(schema, dict)
    return schema


def test_its_names_are_those_of_the_code() -> None:
    assert set(SCHEMAS["Error"]["properties"]["code"]["enum"]) == HTTP_CODES | {*ErrorCode}
    [example] = SCHEMAS["Error"]["examples"]
    assert example["error"] == ERROR_TEXTS[ErrorCode(example["code"])]
    described = {}
    for part in SCHEMAS["Data"]["properties"]["data"]["oneOf"]:
        [key] = set(part["properties"]) - {"subscription_type"}
        described[part["properties"]["subscription_type"]["const"]] = key
    assert described == PAYLOAD_KEYS
    for names in (
        parameter("/api/stream/{type}", "get", "type")["enum"],
        parameter("/api/publish/{type}", "post", "type")["enum"],
        SCHEMAS["Token"]["properties"]["types"]["items"]["enum"],
    ):
        assert tuple(names) == SUBSCRIPTION_TYPES
    causes = answer_schema("/readyz", "get", 503)["properties"]["causes"]["items"]["enum"]
    assert causes == [DRAINING, DATABASE, LAYER]


def test_its_bounds_are_those_of_the_code() -> None:
    rate = parameter("/api/stream/{type}", "get", "max_rate")
    assert (rate["minimum"], rate["maximum"]) == (MIN_RATE, MAX_RATE)
    key = parameter("/api/publish/{type}", "post", "Idempotency-Key")
    assert key["maxLength"] == MAX_KEY
    rewind = parameter("/api/stream/{type}", "get", "rewind")
    for value in (rewind["minimum"], rewind["maximum"]):
        read_start(None, value)
    for value in (rewind["minimum"] - 1, rewind["maximum"] + 1):
        with pytest.raises(ValueError):
            read_start(None, value)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/openapi.json"])
def test_answers_are_as_described(server: Server, path: str) -> None:
    status, kind, body = get(server, path)
    assert (status, kind) == (200, "application/json")
    check(answer_schema(path, "get", 200), json.loads(body))


def test_the_served_description_is_this_one(server: Server) -> None:
    _, _, body = get(server, "/api/openapi.json")
    servers = [{"url": f"http://127.0.0.1:{server.port}/"}]
    assert json.loads(body) == API | {"servers": servers}


async def test_events_are_as_described(server: Server, token: str) -> None:
    schema = {"$ref": "#/components/schemas/Event"}
    token = server.new_token(name="described stream")
    async with subscribed(server, "alerts", token) as (source, first):
        check(schema, first.data)
        server.publish("alerts", {"severity": "low"})
        message = await source.next()
        check(schema, message.data)
        check({"$ref": "#/components/schemas/Data"}, message.data)
        server.manage("revoke_token", "described stream")
        check(schema, (await source.next()).data)


async def test_errors_are_as_described(server: Server, token: str) -> None:
    only_alerts = server.new_token(types=["alerts"])
    for status, kind, secret in [
        (400, "events?filter=x&", token),
        (401, "events", None),
        (403, "events", only_alerts),
        (404, "nothing", token),
    ]:
        async with event_source(server, kind, secret) as source:
            assert source.status == status
            check(answer_schema("/api/stream/{type}", "get", status), await source.body())


async def test_what_publishing_answers_is_as_described(server: Server, token: str) -> None:
    only_read = server.new_token()
    for status, kind, secret, body, form in [
        (200, "alerts", token, b"{}", "application/json"),
        (200, "alerts", token, b"{}\n{}", NDJSON),
        (200, "alerts?skip_invalid=1", token, b"{}\nno", NDJSON),
        (400, "alerts", token, b"{}\nno", NDJSON),
        (401, "alerts", None, b"{}", NDJSON),
        (403, "alerts", only_read, b"{}", NDJSON),
        (404, "nothing", token, b"{}", NDJSON),
        (415, "alerts", token, b"{}", "text/plain"),
    ]:
        answer = await post(server, kind, secret, body, form)
        assert answer.status == status, answer
        check(answer_schema("/api/publish/{type}", "post", status), answer.said)


@pytest.mark.django_db
def test_a_token_is_as_described() -> None:
    browser = Client()
    refused = browser.post("/api/token")
    assert refused.status_code == 401
    check(answer_schema("/api/token", "post", 401), refused.json())
    browser.force_login(User.objects.create_superuser("someone"))
    made = browser.post("/api/token")
    check(answer_schema("/api/token", "post", 200), made.json())
