"""The wire contract: every message, code and text; what is read, and what is no message at all."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.protocol import (
    ERROR_TEXTS,
    MAX_METADATA_BYTES,
    PAYLOAD_KEYS,
    SUBSCRIPTION_TYPES,
    Auth,
    CloseCode,
    CloseReason,
    Command,
    ErrorCode,
    Ping,
    Position,
    ProtocolError,
    Subscribe,
    Unsubscribe,
    encode,
    encode_data_head,
    encode_data_tail,
    encode_error,
    encode_payload,
    format_timestamp,
    parse,
)

thorough = settings(deadline=None, max_examples=100)

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp()
NAN = float("nan")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | text | st.floats(allow_nan=False)
finite_scalars = scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
json_values = st.recursive(
    finite_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
# Messages near enough to real ones that every branch is reached.
near_messages = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["auth", "subscribe", "unsubscribe", "ping", "", 5]) | json_values,
        "data": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("token", "type", "filters", "resume", "rewind", "subscription_id"), json_values
            ),
        )
        | json_values,
        "subscription_id": text | json_values,
        "timestamp": text | json_values,
        "metadata": st.dictionaries(text, json_values, max_size=3) | json_values,
        "unknown": json_values,
    },
)


def subscribe(wanted: dict[str, Any], chosen_id: str | None = None) -> Subscribe:
    """Return a command without metadata."""
    return Subscribe(None, wanted, chosen_id)


def read(message: Any) -> Command:
    """Parse a message given as what its JSON says."""
    return parse(json.dumps(message))


def refusal(message: str | bytes | dict[str, Any]) -> ProtocolError:
    """Return the error that a message gives."""
    with pytest.raises(ProtocolError) as caught:
        parse(json.dumps(message) if isinstance(message, dict) else message)
    return caught.value


def invalid(message: str | bytes | dict[str, Any]) -> str:
    """Return what an ``invalid_message`` error says after its fixed text."""
    error = refusal(message)
    assert error.code == ErrorCode.INVALID_MESSAGE
    start = "Invalid message format: "
    assert str(error).startswith(start)
    return str(error).removeprefix(start)


def metadata_of(command: Command | ProtocolError) -> Any:
    """Return the metadata to be sent back, read."""
    return None if command.metadata is None else json.loads(bytes(command.metadata))


# Tables of the contract


def test_the_payload_keys_are_the_documents() -> None:
    assert PAYLOAD_KEYS == {
        "events": "event",
        "metrics": "metrics",
        "alerts": "alert",
        "predictions": "prediction",
        "aggregations": "aggregation",
        "system_status": "status",
    }
    assert set(SUBSCRIPTION_TYPES) == set(PAYLOAD_KEYS)


CONTRACT_TEXTS = {
    "rate_limited": "Rate limit exceeded",
    "invalid_message": "Invalid message format: ",
    "unknown_type": "Unknown message type",
    "auth_required": "Authentication required",
    "forbidden": "Not permitted",
    "invalid_subscription": "Invalid subscription: ",
    "unknown_subscription": "Unknown subscription",
    "duplicate_subscription": "Duplicate subscription",
    "too_many_subscriptions": "Too many subscriptions",
    "data_lost": "Data lost",
    "restarting": "Server restarting",
    "unavailable": "Temporarily unavailable",
}


def test_every_error_code_has_its_text_of_the_contract() -> None:
    assert set(ERROR_TEXTS) == set(ErrorCode)
    known = {code.value: words for code, words in ERROR_TEXTS.items()}
    # `data_lost` belongs to offsets: as soon as there is such a code, it has this text.
    assert known == {code: CONTRACT_TEXTS[code] for code in known}
    assert set(CONTRACT_TEXTS) - set(known) <= {"data_lost"}


def test_the_close_codes_are_the_contracts() -> None:
    assert sorted(CloseCode) == [1002, 1007, 1008, 1009, 1011, 1012, 1013]


def test_the_close_reasons_are_the_contracts_and_fit_a_close_frame() -> None:
    assert {reason.value for reason in CloseReason} == {
        "origin not allowed",
        "authentication timeout",
        "authentication failed",
        "token revoked",
        "token expired",
        "flooding",
        "disconnected by an administrator",
        "server at capacity",
        "token connection limit",
        "address connection limit",
        "slow consumer",
        "server restarting",
        "message too big",
        "internal error",
    }
    assert all(len(reason.encode()) <= 123 for reason in CloseReason)


# What a client sends


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "auth", "data": {"token": "s3cret"}}, Auth(None, "s3cret")),
        ({"type": "auth"}, Auth(None, None)),
        ({"type": "auth", "data": {}}, Auth(None, None)),
        ({"type": "auth", "data": None}, Auth(None, None)),
        ({"type": "auth", "data": {"token": 7}}, Auth(None, None)),
        ({"type": "auth", "data": {"token": ["s3cret"]}}, Auth(None, None)),
        ({"type": "ping"}, Ping(None)),
        ({"type": "ping", "data": {"any": "thing"}, "unknown": [1]}, Ping(None)),
        ({"type": "ping", "timestamp": "not even a time"}, Ping(None)),
        ({"type": "subscribe", "data": {"type": "events"}}, subscribe({"type": "events"})),
        (
            {
                "type": "subscribe",
                "data": {"type": "alerts", "filters": {"a.b": [1, None]}},
                "subscription_id": "mine",
            },
            subscribe({"type": "alerts", "filters": {"a.b": [1, None]}}, "mine"),
        ),
        (
            {
                "type": "subscribe",
                "data": {"type": "events", "resume": {"epoch": "e", "offset": 7}, "rewind": 5},
            },
            subscribe({"type": "events", "resume": {"epoch": "e", "offset": 7}, "rewind": 5}),
        ),
        # The subscription's own rules come later, with an error of their own.
        (
            {"type": "subscribe", "data": {"type": 1, "filters": 2, "resume": 3, "rewind": "4"}},
            subscribe({"type": 1, "filters": 2, "resume": 3, "rewind": "4"}),
        ),
        ({"type": "subscribe", "data": {}}, subscribe({})),
        ({"type": "unsubscribe", "data": {"subscription_id": "x"}}, Unsubscribe(None, "x")),
        ({"type": "unsubscribe", "subscription_id": "x"}, Unsubscribe(None, "x")),
        (
            {"type": "unsubscribe", "data": {"subscription_id": "x"}, "subscription_id": "y"},
            Unsubscribe(None, "x"),
        ),
    ],
)
def test_a_message_is_read(message: dict[str, Any], expected: Command) -> None:
    assert read(message) == expected
    assert parse(json.dumps(message).encode()) == expected


@pytest.mark.parametrize(
    ("message", "explanation"),
    [
        ("", "empty message"),
        (b"", "empty message"),
        ("[]", "expected a JSON object"),
        ('"ping"', "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("1", "expected a JSON object"),
        ({}, "type: required"),
        ({"type": None}, "type: required"),
        ({"type": 1}, "type: expected a string"),
        ({"type": ["ping"]}, "type: expected a string"),
        ({"type": "ping", "data": []}, "data: expected an object"),
        ({"type": "auth", "data": "token"}, "data: expected an object"),
        ({"type": "ping", "subscription_id": 1}, "subscription_id: expected a string"),
        ({"type": "ping", "timestamp": 1.5}, "timestamp: expected a string"),
        ({"type": "ping", "metadata": []}, "metadata: expected an object"),
        ({"type": "ping", "metadata": "x"}, "metadata: expected an object"),
        ({"type": "ping", "metadata": 0}, "metadata: expected an object"),
        ({"type": "ping", "metadata": False}, "metadata: expected an object"),
        ({"type": "subscribe"}, "data: required"),
        ({"type": "unsubscribe"}, "data.subscription_id: required"),
        ({"type": "unsubscribe", "data": {}}, "data.subscription_id: required"),
        # What no client can have read comes first, whatever the type is.
        ({"type": "nonsense", "data": 1}, "data: expected an object"),
    ],
)
def test_a_wrong_field_is_named(message: str | bytes | dict[str, Any], explanation: str) -> None:
    assert invalid(message) == explanation


def test_a_subscription_id_that_is_no_string_is_named() -> None:
    message = {"type": "unsubscribe", "data": {"subscription_id": 5}}
    assert "subscription_id: expected a string" in invalid(message)


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "ping",
        '{"type":"ping"} {"type":"ping"}',
        '{"type":"ping",}',
        "{'type':'ping'}",
        '\ufeff{"type":"ping"}',
        '{"type":"ping","x":NaN}',
        '{"type":"ping","x":Infinity}',
        '{"type":"ping","x":-Infinity}',
        '{"type":"ping","x":1e999}',
        '{"type":"ping","x":01}',
        '{"type":"ping","x":"\\ud800"}',
        '{"type":"ping","x":"\ud800"}',
        '{"type":"ping","metadata":{"x":"\\udfff"}}',
        '{"\ud800":1,"type":"ping"}',
        '{"type":"pi\x00ng"}',
        '{"type":"ping","x":' + "1" * 100_000 + "}",
        b"\xff\xfe",
        b'{"type":"ping","x":"\xff"}',
        b'{"type":"ping","x":"\xed\xa0\x80"}',
        b'{"type":"ping","x":"\xc0\x80"}',
        '{"type":"ping"}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_is_refused(message: str | bytes) -> None:
    assert invalid(message).startswith("not JSON (")


@pytest.mark.parametrize(
    "message",
    [
        "[" * 10_000 + "]" * 10_000,
        "[" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"type":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"type":"ping","metadata":{"x":' + "[" * 10_000 + "]" * 10_000 + "}}",
    ],
)
def test_deep_nesting_is_refused_and_hurts_nobody(message: str) -> None:
    assert invalid(message) == "nested too deeply"
    assert parse('{"type":"ping"}') == Ping(None)


@pytest.mark.parametrize("kind", ["", "Ping", "data", "auth_success", "PING ", "\U0001f600"])
def test_an_unknown_type_is_returned_in_the_details(kind: str) -> None:
    error = refusal({"type": kind, "data": {}})
    assert error.code == ErrorCode.UNKNOWN_TYPE
    assert str(error) == "Unknown message type"
    assert error.details == {"type": kind}


def test_a_huge_unknown_type_does_not_come_back_whole() -> None:
    error = refusal({"type": "x" * 1_000_000})
    assert error.details == {"type": "x" * 256}


@pytest.mark.parametrize("chosen", ["a", "A-z_0.9:x", "x" * 64, "0f8fad5b-d9cb-469f-a165-70867728"])
def test_a_client_may_choose_an_id(chosen: str) -> None:
    command = read({"type": "subscribe", "data": {}, "subscription_id": chosen})
    assert isinstance(command, Subscribe) and command.subscription_id == chosen


@pytest.mark.parametrize("chosen", ["", "x" * 65, "a b", "a\n", "a/b", "\u00e4", "a\x00", '"', "٣"])
def test_a_malformed_id_is_refused(chosen: str) -> None:
    message = {"type": "subscribe", "data": {}, "subscription_id": chosen}
    assert invalid(message).startswith("subscription_id: expected 1 to 64 characters")


# Metadata


def test_metadata_comes_back_as_it_was_written() -> None:
    written = '{ "b":1.50, "a":[1e2, "\\u00e4"],\n"b":2 }'
    command = parse('{"metadata": ' + written + ', "type": "ping"}')
    assert command.metadata is not None
    assert bytes(command.metadata) == written.encode()
    reply = encode("pong", NOON, metadata=command.metadata)
    assert written.encode() in reply
    assert json.loads(reply)["metadata"] == {"a": [100.0, "ä"], "b": 2}


@pytest.mark.parametrize("message", ['{"type":"ping"}', '{"type":"ping","metadata":null}'])
def test_no_metadata_is_none(message: str) -> None:
    assert parse(message).metadata is None


def test_empty_metadata_comes_back() -> None:
    assert metadata_of(parse('{"type":"ping","metadata":{}}')) == {}


def test_metadata_under_an_escaped_name_is_found() -> None:
    assert metadata_of(parse('{"type":"ping","met\\u0061data":{"a":1}}')) == {"a": 1}


def test_of_repeated_metadata_the_last_counts() -> None:
    message = '{"type":"ping","metadata":%s,"metadata":%s}'
    assert metadata_of(parse(message % ("[1]", '{"b":2}'))) == {"b": 2}
    assert metadata_of(parse(message % ('{"b":2}', "null"))) is None


def test_metadata_may_be_1024_bytes_and_no_more() -> None:
    at_most = {"x": "y" * (MAX_METADATA_BYTES - len('{"x": ""}'))}
    assert metadata_of(read({"type": "ping", "metadata": at_most})) == at_most
    too_much = {"x": at_most["x"] + "y"}
    message = {"type": "ping", "metadata": too_much}
    assert invalid(message) == "metadata: larger than 1024 bytes"
    assert refusal(message).metadata is None


def test_metadata_is_measured_in_bytes() -> None:
    characters = json.dumps({"x": "ä" * 600}, ensure_ascii=False)
    assert len(characters) < MAX_METADATA_BYTES
    assert invalid('{"type":"ping","metadata":' + characters + "}").startswith("metadata: larger")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "nonsense"},
        {"type": "subscribe"},
        {"type": "ping", "data": 1},
        {"type": 1},
        {"subscription_id": "x"},
    ],
)
def test_a_refusal_has_the_metadata_too(message: dict[str, Any]) -> None:
    error = refusal(message | {"metadata": {"request": 7}})
    assert json.loads(encode_error(error, NOON))["metadata"] == {"request": 7}


# Anything at all


def assert_reads_or_refuses(message: str | bytes) -> None:
    """Check that a message gives a command or an error that can be sent."""
    try:
        command = parse(message)
    except ProtocolError as error:
        reply = json.loads(encode_error(error, NOON))
        assert reply["type"] == "error"
        assert reply["data"]["error"] == str(error)
        assert error.code in (ErrorCode.INVALID_MESSAGE, ErrorCode.UNKNOWN_TYPE)
    else:
        assert isinstance(command, Auth | Subscribe | Unsubscribe | Ping)
        reply = json.loads(encode("pong", NOON, metadata=command.metadata))
        assert reply.get("metadata") == metadata_of(command)


@given(st.text() | st.text(st.sampled_from('{}[]",:0123456789.eE+-\\u trufalsn\ud800')))
@example("\ud800")
@thorough
def test_any_text_is_read_or_refused(message: str) -> None:
    assert_reads_or_refuses(message)


@given(st.binary() | st.binary().map(lambda part: b'{"type":"ping","x":"' + part + b'"}'))
@thorough
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    assert_reads_or_refuses(message)


@given(json_values | near_messages, st.booleans())
@thorough
def test_any_json_is_read_or_refused(message: Any, ascii_only: bool) -> None:
    written = json.dumps(message, ensure_ascii=ascii_only)
    assert_reads_or_refuses(written)
    assert_reads_or_refuses(written.encode())


@given(near_messages, st.data())
@thorough
def test_any_piece_of_a_message_is_read_or_refused(message: Any, data: st.DataObject) -> None:
    written = json.dumps(message).encode()
    assert_reads_or_refuses(written[: data.draw(st.integers(0, len(written)))])
    position = data.draw(st.integers(0, len(written) - 1))
    assert_reads_or_refuses(
        written[:position] + data.draw(st.binary(max_size=3)) + written[position + 1 :]
    )


# What the server sends


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOON, "2024-01-01T12:00:00.000Z"),
        (NOON + 0.25, "2024-01-01T12:00:00.250Z"),
        (NOON + 0.9999999, "2024-01-01T12:00:01.000Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(seconds: float, written: str) -> None:
    assert format_timestamp(seconds) == written


def test_a_message_has_only_the_parts_it_was_given() -> None:
    assert json.loads(encode("pong", NOON)) == {
        "type": "pong",
        "timestamp": "2024-01-01T12:00:00.000Z",
    }
    metadata = msgspec.Raw(b'{"n":1}')
    assert json.loads(encode("unsubscribed", NOON, {}, "id", metadata)) == {
        "type": "unsubscribed",
        "data": {},
        "timestamp": "2024-01-01T12:00:00.000Z",
        "metadata": {"n": 1},
        "subscription_id": "id",
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_is_sent_with_text_and_code(code: ErrorCode) -> None:
    words = CONTRACT_TEXTS[code.value]
    explanation = "why" if words.endswith(": ") else ""
    message = json.loads(encode_error(ProtocolError(code, explanation), NOON))
    assert message["type"] == "error"
    assert message["data"] == {"error": words + explanation, "code": code.value}
    with_details = encode_error(ProtocolError(code, details={"retry_after": 1.5}), NOON)
    assert json.loads(with_details)["data"]["details"] == {"retry_after": 1.5}
    of_a_subscription = encode_error(ProtocolError(code), NOON, "an-id")
    assert json.loads(of_a_subscription)["subscription_id"] == "an-id"
    assert "subscription_id" not in json.loads(with_details)


@given(text, st.dictionaries(text, json_values, max_size=4), text)
@thorough
def test_encoding_loses_nothing(kind: str, data: dict[str, Any], subscription_id: str) -> None:
    message = json.loads(encode(kind, NOON, data, subscription_id))
    assert message["type"] == kind
    assert message["data"] == data
    assert message["subscription_id"] == subscription_id


@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
def test_a_data_message_is_the_documents(kind: str) -> None:
    expected = {
        "type": "data",
        "data": {PAYLOAD_KEYS[kind]: {"n": 1}, "subscription_type": kind},
        "timestamp": "2024-01-01T12:00:00.000Z",
        "metadata": {"epoch": "0123456789abcdef", "offset": 12345678901234567},
        "subscription_id": "an-id",
    }
    position = Position("0123456789abcdef", 12345678901234567)
    head = encode_data_head(kind, b'{"n":1}', "2024-01-01T12:00:00.000Z", position)
    assert json.loads(head + encode_data_tail("an-id")) == expected
    head = encode_data_head(kind, b'{"n":1}', "2024-01-01T12:00:00.000Z")
    assert json.loads(head + encode_data_tail("an-id")) == expected | {"metadata": {}}


def test_what_differs_between_clients_comes_last() -> None:
    head = encode_data_head("events", b"{}", "2024-01-01T12:00:00.000Z", Position("e", 1))
    assert head.endswith(b'"subscription_id":"')
    assert encode_data_tail("an-id") == b'an-id"}'


# What a publisher gives


@given(st.dictionaries(text, json_values, max_size=5))
@thorough
def test_a_payload_arrives_as_it_was_given(payload: dict[str, Any]) -> None:
    assert json.loads(encode_payload(payload)) == payload


@pytest.mark.parametrize(
    "payload",
    [None, [], [{}], "{}", b"{}", 1, True, [("a", 1)], {1, 2}],
)
def test_a_payload_that_is_no_object_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"^payload: expected an object, got \w+$"):
        encode_payload(payload)


@pytest.mark.parametrize(
    "payload",
    [
        {"a": NAN},
        {"a": math.inf},
        {"a": [1, {"b": -math.inf}]},
        {"a": (1, NAN)},
        {"a": None, "b": [None, NAN]},
        {"a": object()},
        {"a": lambda: None},
        {None: 1},
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_a_payload_that_json_cannot_hold_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON \(.+\)$"):
        encode_payload(payload)


def test_a_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload({"a": 10**5000})


def nested(depth: int, innermost: Any) -> dict[str, Any]:
    """Return an object in an object, and so on."""
    value: Any = innermost
    for _ in range(depth):
        value = {"a": value}
    return {"a": value}


def test_a_payload_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(nested(10_000, 1))


@pytest.mark.parametrize("depth", [10, 300, 700])
def test_nulls_may_be_deep_and_nan_is_found_there(depth: int) -> None:
    assert encode_payload(nested(depth, None)).count(b"{") == depth + 1
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(nested(depth, NAN))


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: dict[str, Any] = {"nothing": None}
    payload["itself"] = payload
    with pytest.raises(ValueError, match=r"^payload: not JSON"):
        encode_payload(payload)
