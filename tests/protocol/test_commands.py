"""What a client sends: what is read, and what is no message at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.protocol import ErrorCode, ProtocolError, encode, encode_error
from realtime.protocol.commands import (
    MAX_METADATA_BYTES,
    Auth,
    Command,
    Ping,
    Subscribe,
    Unsubscribe,
    parse,
)
from tests.protocol.values import NOON, json_values, text, thorough

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
