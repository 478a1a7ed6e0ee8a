"""The option ``fields``: the wanted parts of a payload."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime.hub.message import field_tree, project
from tests.hub.test_shaping import options


class TestFields:
    @pytest.mark.parametrize(
        ("paths", "expected"),
        [
            (["a"], {"a": 1}),
            (["deep.x", "a"], {"a": 1, "deep": {"x": [1, {"y": 2}]}}),
            (["deep", "deep.x"], {"deep": {"x": [1, {"y": 2}], "z": {"w": None}}}),
            (["deep.z.w"], {"deep": {"z": {"w": None}}}),
            (["deep.x.y", "a.b", "nothing", "deep.nothing"], {}),
        ],
    )
    def test_parts(self, paths: list[str], expected: Any) -> None:
        payload = {"a": 1, "deep": {"x": [1, {"y": 2}], "z": {"w": None}}, "text": "x"}
        tree = field_tree(options(fields=paths).fields or ())
        assert json.loads(project(json.dumps(payload).encode(), tree)) == expected

    def test_values_stay_as_they_were_written(self) -> None:
        payload = b'{"a":1.0,"b":123456789012345678901234567890,"c":"\\u00e9","d":{"e":1E2}}'
        tree = field_tree([("a",), ("b",), ("c",), ("d", "e")])
        assert project(b' { "x":{},' + payload[1:], tree) == payload

    def test_what_cannot_be_read_has_no_parts(self) -> None:
        tree = field_tree([("a",)])
        assert project(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", tree) == b"{}"
