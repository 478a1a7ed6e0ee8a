"""How many messages match a filter, and how many each of its paths and alternatives. Pure.

Counts what ``explain`` reports; nothing of where the messages come from.
"""

from __future__ import annotations

from typing import Any

from realtime.filters.clauses import Filter, matches
from realtime.filters.compiler import OR, compile_filters
from realtime.filters.paths import MISSING, lookup, read_path


class Explanation:
    """Counts of messages that a filter, each of its paths and each alternative match."""

    def __init__(self, filters: dict[str, Any]) -> None:
        """Take filters as a client wrote them, which must compile."""
        self._filter = compile_filters(filters)
        self._matching = 0
        self._paths = {
            path: _PathCount(path, compile_filters({path: value}))
            for path, value in filters.items()
            if path != OR
        }
        self._alternatives = [Explanation(alternative) for alternative in filters.get(OR, ())]

    def count(self, payload: Any) -> None:
        """Count a message."""
        self._matching += matches(self._filter, payload)
        for path in self._paths.values():
            path.count(payload)
        for alternative in self._alternatives:
            alternative.count(payload)

    def as_data(self) -> dict[str, Any]:
        """Return the counts in the form of the answer to ``explain``:

        ``{"matching": 2, "paths": {"user": {"present": 9, "matching": 2}}, "or": [...]}``, the
        last only if there are alternatives.
        """
        paths = {name: path.as_data() for name, path in self._paths.items()}
        data: dict[str, Any] = {"matching": self._matching, "paths": paths}
        if self._alternatives:
            data["or"] = [alternative.as_data() for alternative in self._alternatives]
        return data


class _PathCount:
    """How many messages have a value at a path, and how many a value that matches."""

    def __init__(self, path: str, compiled: Filter) -> None:
        self._path = read_path(path)
        self._filter = compiled
        self._present = 0
        self._matching = 0

    def count(self, payload: Any) -> None:
        self._present += lookup(payload, self._path) is not MISSING
        self._matching += matches(self._filter, payload)

    def as_data(self) -> dict[str, int]:
        return {"present": self._present, "matching": self._matching}
