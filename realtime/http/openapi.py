"""The description of what is served over HTTP, in OpenAPI 3.1; of WebSockets: docs/asyncapi.yaml.

Made from the contract's own constants. A path that is added to the site is added here too, which
a test enforces.
"""

from __future__ import annotations

from typing import Any

from realtime.protocol import ERROR_TEXTS, PAYLOAD_KEYS, SUBSCRIPTION_TYPES, ErrorCode
from realtime.protocol.options import MAX_RATE, MIN_RATE
from realtime.sessions.readiness import DATABASE, DRAINING, LAYER

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_TIMESTAMP: Schema = {"type": "string", "format": "date-time"}


def describe(server_url: str = "/") -> Schema:
    """Return the description of the site at *server_url*."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Streaming API over HTTP",
            "version": "1",
            "description": "Publishing, event streams, tokens for pages, and health. The "
            "WebSocket API is described in AsyncAPI.",
        },
        "servers": [{"url": server_url}],
        "paths": {
            "/": {"get": _DASHBOARD},
            "/api/openapi.json": {"get": _DESCRIPTION},
            "/api/publish/{type}": {"post": _PUBLISH},
            "/api/stats": {"get": _STATS},
            "/api/stream/{type}": {"get": _STREAM},
            "/api/token": {"post": _TOKEN},
            "/healthz": {"get": _HEALTH},
            "/metrics": {"get": _METRICS},
            "/readyz": {"get": _READINESS},
        },
        "components": {
            "schemas": {"Error": _ERROR, "Event": _EVENT, "Data": _DATA, "Token": _TOKEN_MADE},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token, a connection token or a JSON Web Token.",
                },
                "query": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "A connection token or a JSON Web Token.",
                },
                "session": {"type": "apiKey", "in": "cookie", "name": "sessionid"},
            },
        },
    }


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _json(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def _error(description: str, **more: Any) -> Schema:
    return _json(description, {"$ref": "#/components/schemas/Error"}, **more)


def _parameter(name: str, where: str, schema: Schema, description: str, **more: Any) -> Schema:
    return {"name": name, "in": where, "schema": schema, "description": description, **more}


# Codes of errors that only HTTP has.
_HTTP_CODES = (
    *("invalid_credentials", "length_required", "method_not_allowed", "timeout", "too_large"),
    "unsupported_media_type",
)
_ERROR = _object(
    ("error", "code"),
    error=_STRING,
    code={
        "type": "string",
        "enum": sorted({*map(str, ErrorCode), *_HTTP_CODES}),
    },
    details=_object(
        retry_after={"type": "number", "description": "seconds"},
        line={"type": "integer", "minimum": 1},
    ),
)
_ERROR["examples"] = [{"error": ERROR_TEXTS[ErrorCode.FORBIDDEN], "code": ErrorCode.FORBIDDEN}]

_DATA = _object(
    ("type", "data", "timestamp", "metadata", "subscription_id"),
    type={"const": "data"},
    data={
        "type": "object",
        "description": "The payload, under a key of its type, and the type.",
        "oneOf": [
            _object(
                (key, "subscription_type"),
                **{key: {"type": "object"}, "subscription_type": {"const": kind}},
            )
            for kind, key in PAYLOAD_KEYS.items()
        ],
    },
    timestamp=_TIMESTAMP,
    metadata=_object(epoch=_STRING, offset={"type": "integer", "minimum": 1}),
    subscription_id=_STRING,
)

_EVENT: Schema = {
    "description": "The data of an event, by its name.",
    "oneOf": [
        {"title": "no name", "$ref": "#/components/schemas/Data"},
        _object(("type", "data"), type={"const": "subscribed"}, data={"type": "object"}),
        _object(("type", "data"), type={"const": "error"}, data={"type": "object"}),
        _object(("type", "data"), type={"const": "unsubscribed"}, data={"type": "object"}),
        {
            "title": "close",
            **_object(("code", "reason"), code={"type": "integer"}, reason=_STRING),
            "not": {"required": ["type"]},
        },
    ],
}

_TOKEN_MADE = _object(
    ("token", "expires_at", "types"),
    token=_STRING,
    expires_at=_TIMESTAMP,
    types={"type": "array", "items": {"enum": list(SUBSCRIPTION_TYPES)}},
)

_RETRY_AFTER: Schema = {
    "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
}

_STREAM: Schema = {
    "operationId": "stream",
    "summary": "One subscription as server-sent events",
    "security": [{"bearer": []}, {"query": []}],
    "parameters": [
        _parameter(
            "type",
            "path",
            {"type": "string", "enum": list(SUBSCRIPTION_TYPES)},
            "The subscription type.",
            required=True,
        ),
        _parameter(
            "filter",
            "query",
            {"type": "array", "items": _STRING},
            "PATH=VALUE, where the value is JSON if it parses and a string otherwise; or one JSON "
            "object of paths, each with a value, values or operators.",
            example=["event_type=departure"],
        ),
        _parameter(
            "rewind",
            "query",
            {"type": "integer", "minimum": 0, "maximum": 1000},
            "Begin with the newest so many that match.",
        ),
        _parameter(
            "max_rate",
            "query",
            {"type": "number", "minimum": MIN_RATE, "maximum": MAX_RATE},
            "At most so many messages per second; the newest wins.",
        ),
        _parameter(
            "conflate",
            "query",
            _STRING,
            "A path: the newest message per value of it, max_rate times a second, by default once.",
        ),
        _parameter("fields", "query", _STRING, "Paths, separated by commas: only these are sent."),
        _parameter(
            "on_overflow",
            "query",
            {"type": "string", "enum": ["close", "drop"]},
            "What happens to a client that reads too little.",
        ),
        _parameter(
            "explain",
            "query",
            {"type": "string", "enum": ["0", "1"]},
            "Whether the first event says what of the newest messages matches.",
        ),
        _parameter("last_event_id", "query", _STRING, "EPOCH:OFFSET: resume after this position."),
        _parameter("Last-Event-ID", "header", _STRING, "The same; it wins over the query."),
    ],
    "responses": {
        "200": {
            "description": "Events without end; `id` is the position to resume after.",
            "content": {
                "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}},
            },
        },
        "400": _error(
            "A wrong filter, position, rewind, explain or option; an access token in the query."
        ),
        "401": _error("No credentials, or wrong ones."),
        "403": _error("The token does not allow the type, or the page's origin may not connect."),
        "404": _error("No such type."),
        "429": _error("The token has connections enough.", **_RETRY_AFTER),
        "503": _error("No room, a restart, or a part of the server is away.", **_RETRY_AFTER),
    },
}

_OFFSET: Schema = {"type": ["integer", "null"], "minimum": 1}
_PUBLISHED = _object(
    ("count", "epoch", "first", "last"),
    count={"type": "integer", "minimum": 0},
    epoch={"type": ["string", "null"]},
    first=_OFFSET,
    last=_OFFSET,
    skipped={"type": "integer", "minimum": 1},
    errors={
        "type": "array",
        "description": "The first lines that were skipped.",
        "items": _object(("line", "error"), line={"type": "integer"}, error=_STRING),
    },
)
_POSITION = _object(("epoch", "offset"), epoch=_STRING, offset={"type": "integer", "minimum": 1})

_PUBLISH: Schema = {
    "operationId": "publish",
    "summary": "Publish one payload, or a stream of lines as they come",
    "description": "An error in a stream of lines has in its details what was published before, as "
    "in the answer, and `line`, the first line that was not.",
    "security": [{"bearer": []}],
    "parameters": [
        _parameter(
            "type",
            "path",
            {"type": "string", "enum": list(SUBSCRIPTION_TYPES)},
            "The subscription type.",
            required=True,
        ),
        _parameter(
            "skip_invalid",
            "query",
            {"enum": [0, 1]},
            "Go on after a line that is no payload.",
        ),
        _parameter(
            "Idempotency-Key",
            "header",
            {"type": "string", "maxLength": 255},
            "The same again, within `history_ttl`, publishes nothing again and has the answer of "
            "the first time.",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "A JSON object on each line."}
            },
        },
    },
    "responses": {
        "200": _json("What was published.", {"oneOf": [_POSITION, _PUBLISHED]}),
        "400": _error("No payload, or a line that is none; a wrong Idempotency-Key."),
        "401": _error("No token, or a wrong one; it was revoked meanwhile."),
        "403": _error("The token may not publish this type, or this payload."),
        "404": _error("No such type."),
        "408": _error("The body has not come in time."),
        "411": _error("No length and no chunks."),
        "413": _error("A payload larger than `max_message_size`."),
        "415": _error("Neither JSON nor newline-delimited JSON."),
        "429": _error("The token has made requests enough.", **_RETRY_AFTER),
        "503": _error("A restart, or a part of the server is away.", **_RETRY_AFTER),
    },
}

_TOKEN: Schema = {
    "operationId": "connection_token",
    "summary": "A token for a minute, for the logged-in user's page to connect with",
    "security": [{"session": []}],
    "parameters": [
        _parameter("X-CSRFToken", "header", _STRING, "Django's CSRF token.", required=True)
    ],
    "responses": {
        "200": _json("The token.", {"$ref": "#/components/schemas/Token"}),
        "401": _error("Nobody is logged in."),
        "403": {"description": "The user has no rights, or the request is another site's."},
    },
}

_HEALTH: Schema = {
    "operationId": "healthz",
    "summary": "Whether the process is alive",
    "responses": {"200": _json("It is.", _object(("status",), status={"const": "ok"}))},
}

_READINESS: Schema = {
    "operationId": "readyz",
    "summary": "Whether clients may be sent here",
    "responses": {
        "200": _json("They may.", _object(("status",), status={"const": "ready"})),
        "503": _json(
            "They may not.",
            _object(
                ("status", "causes"),
                status={"const": "unavailable"},
                causes={"type": "array", "items": {"enum": [DRAINING, DATABASE, LAYER]}},
            ),
        ),
    },
}

_OPERATORS: Schema = {
    "401": _error("Neither a token nor a login."),
    "403": _error("The token or user may not see the statistics."),
    "503": _error("The database does not answer."),
}

_STATS: Schema = {
    "operationId": "stats",
    "summary": "The figures of this process and of all",
    "security": [{"bearer": []}, {"session": []}],
    "responses": {
        "200": _json(
            "The figures.",
            _object(
                ("process", "cluster"),
                process=_object(("active_clients", "total_subscriptions", "messages_sent")),
                cluster=_object(
                    ("processes", "hosts", "connections", "subscriptions", "log", "by_process"),
                    by_process={"type": "array", "items": _object(("process", "host", "pid"))},
                ),
            ),
        ),
        **_OPERATORS,
    },
}

_METRICS: Schema = {
    "operationId": "metrics",
    "summary": "The figures of this host's processes, for Prometheus",
    "security": [{"bearer": []}, {"session": []}],
    "responses": {
        "200": {"description": "Prometheus' text format.", "content": {"text/plain": {}}},
        **_OPERATORS,
    },
}

_DASHBOARD: Schema = {
    "operationId": "dashboard",
    "summary": "The live dashboard",
    "responses": {"200": {"description": "A page.", "content": {"text/html": {}}}},
}

_DESCRIPTION: Schema = {
    "operationId": "openapi",
    "summary": "This description",
    "responses": {"200": _json("It.", {"type": "object"})},
}
