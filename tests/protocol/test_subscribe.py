"""What a client asks to subscribe to, and how it is told what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.filters import EVERYTHING
from realtime.filters.compiler import compile_filters
from realtime.protocol import ErrorCode, Position, ProtocolError
from realtime.protocol.commands import parse
from realtime.protocol.subscribe import (
    MAX_FIELDS,
    MAX_REWIND,
    Options,
    StartFrom,
    SubscribeRequest,
    read_options,
    read_start,
    read_subscribe_request,
)
from tests.hub.test_shaping import options


def test_a_request_has_the_filters_compiled_and_as_they_were_written() -> None:
    written = {"n": {"gte": 1}}
    assert read_subscribe_request({"type": "events", "filters": written}) == SubscribeRequest(
        "events", compile_filters(written), written
    )
    plain = SubscribeRequest("alerts", EVERYTHING, {})
    assert read_subscribe_request({"type": "alerts"}) == plain
    nothing: dict[str, Any] = {
        "filters": {},
        "resume": None,
        "rewind": None,
        "explain": False,
        "max_rate": None,
    }
    assert read_subscribe_request({"type": "alerts"} | nothing) == plain


def test_a_request_may_ask_for_more() -> None:
    data = {
        "type": "events",
        "max_rate": 5,
        "resume": {"epoch": "a", "offset": 7},
        "rewind": 3,
        "explain": True,
    }
    request = read_subscribe_request(data)
    assert request.options == Options(max_rate=5.0)
    assert request.start_from == StartFrom(Position("a", 7), 3)
    assert request.wants_explanation


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ({}, "type: expected one of events, metrics, alerts, "),
        ({"type": "others"}, "type: expected one of "),
        ({"type": ["events"]}, "type: expected one of "),
        ({"type": "events", "filters": []}, "filters: expected an object"),
        ({"type": "events", "max_rate": 0}, "max_rate: expected a number"),
        ({"type": "events", "rewind": -1}, "rewind: expected an integer"),
        ({"type": "events", "explain": 1}, "explain: expected true or false"),
    ],
)
def test_a_subscription_that_is_wrong_is_told_how(data: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_subscribe_request(data)
    assert caught.value.code is ErrorCode.INVALID_SUBSCRIPTION
    assert str(caught.value).startswith(f"Invalid subscription: {wrong}")


def test_equal_subscriptions_have_equal_ids() -> None:
    def derive(**data: Any) -> str:
        return read_subscribe_request({"type": "events"} | data).derive_id()

    plain = derive(filters={"n": [1, 2]})
    assert plain == derive(filters={"n": [2, 1]}, rewind=5, explain=True)
    others = {derive(), derive(type="alerts"), derive(max_rate=1), derive(max_rate=2)}
    assert len(others | {plain}) == 5
    assert derive(max_rate=1) == derive(max_rate=1.0)


@pytest.mark.parametrize(
    ("resume", "rewind", "wrong"),
    [
        ("x", None, "resume: expected an object with epoch and offset"),
        ([], None, "resume: expected an object with epoch and offset"),
        ({}, None, "resume.epoch: expected a string"),
        ({"epoch": 1, "offset": 1}, None, "resume.epoch: expected a string"),
        ({"epoch": "a"}, None, "resume.offset: expected an integer of 0 or more"),
        ({"epoch": "a", "offset": -1}, None, "resume.offset: expected an integer of 0 or more"),
        ({"epoch": "a", "offset": 1.0}, None, "resume.offset: expected an integer of 0 or more"),
        ({"epoch": "a", "offset": True}, None, "resume.offset: expected an integer of 0 or more"),
        (None, -1, "rewind: expected an integer from 0 to 1000"),
        (None, MAX_REWIND + 1, "rewind: expected an integer from 0 to 1000"),
        (None, "1", "rewind: expected an integer from 0 to 1000"),
        (None, True, "rewind: expected an integer from 0 to 1000"),
    ],
)
def test_a_start_that_is_wrong_is_told_how(resume: Any, rewind: Any, wrong: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_start(resume, rewind)
    assert str(caught.value) == wrong


def test_a_start() -> None:
    assert read_start(None, None) == StartFrom()
    position = {"epoch": "a", "offset": 0, "more": 1}
    assert read_start(position, MAX_REWIND) == StartFrom(Position("a", 0), MAX_REWIND)


class TestOptions:
    @pytest.mark.parametrize(
        "nothing", [{}, {"max_rate": None, "fields": None}, {"on_overflow": "close"}, {"type": "x"}]
    )
    def test_nothing(self, nothing: Any) -> None:
        assert read_options(nothing) is None

    @pytest.mark.parametrize(
        ("written", "in_force"),
        [
            ({"max_rate": 5}, {"max_rate": 5.0}),
            ({"max_rate": 0.2}, {"max_rate": 0.2}),
            ({"conflate": "a.b"}, {"max_rate": 1.0, "conflate": "a.b"}),
            ({"conflate": "a", "max_rate": 10}, {"max_rate": 10.0, "conflate": "a"}),
            ({"batch_ms": 250}, {"batch_ms": 250}),
            ({"fields": ["b", "a.c", "b"]}, {"fields": ["a.c", "b"]}),
            ({"on_overflow": "drop"}, {"on_overflow": "drop"}),
        ],
    )
    def test_what_is_in_force(self, written: Any, in_force: Any) -> None:
        assert options(**written).describe() == in_force
        assert options(**in_force) == options(**written)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("max_rate", [0, -1, 1001, True, "5", [], {}, 1e-9, float("inf"), 10**400]),
            ("conflate", [1, "", "a..b", ".", "x" * 257, ".".join("a" * 17), ["a"], {}, False]),
            ("batch_ms", [0, -1, 10_001, 1.5, 100.0, True, "1", [], {}]),
            ("fields", [[], "a", {"a": 1}, [1], [""], ["a", None], [["a"]], ["x" * 257], True]),
            ("fields", [[f"f{n}" for n in range(MAX_FIELDS + 1)]]),
            ("on_overflow", ["", "Drop", True, 1, [], {}, ["drop"]]),
        ],
    )
    def test_what_is_wrong_is_named(self, name: str, values: list[Any]) -> None:
        for value in values:
            with pytest.raises(ValueError, match=f"^{name}: "):
                read_options({name: value})

    def test_what_a_message_may_hold(self) -> None:
        """Numbers as a client may write them."""
        command = parse('{"type":"subscribe","data":{"type":"events","max_rate":1e3}}')
        assert options(**command.data).max_rate == 1000  # type: ignore[attr-defined]
