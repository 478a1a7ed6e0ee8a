"""The options of a subscription, as clients write them."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.protocol.commands import parse
from realtime.protocol.subscribe import MAX_FIELDS, read_options
from tests.hub.test_shaping import options


class TestReading:
    @pytest.mark.parametrize(
        "nothing", [{}, {"max_rate": None, "fields": None}, {"on_overflow": "close"}, {"type": "x"}]
    )
    def test_nothing(self, nothing: Any) -> None:
        assert read_options(nothing) is None

    @pytest.mark.parametrize(
        ("said", "in_force"),
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
    def test_what_is_in_force(self, said: Any, in_force: Any) -> None:
        assert options(**said).describe() == in_force
        assert options(**in_force) == options(**said)

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
