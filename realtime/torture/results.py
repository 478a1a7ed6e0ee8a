"""Works the aggregation rules out anew, from the log alone, and compares. Pure.

A result must be there once and have these figures, or be marked incomplete where that may be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from realtime.protocol import format_timestamp
from realtime.torture.history import Chapter, Entry, History

_FUNCTIONS = [
    {"name": "count", "function": "count"},
    {"name": "sum", "function": "sum", "path": "n"},
]
# By the messages' own times, and by the time of publishing.
OWN = {
    "name": "own",
    "size": 10,
    "allowed_lateness": 30,
    "time_path": "at",
    "group_by": ["publisher"],
    "functions": _FUNCTIONS,
}
LIVE = {"name": "live", "size": 1, "functions": _FUNCTIONS}
RULES: list[dict[str, Any]] = [OWN, LIVE]

# A rule's name, the group, and the beginning of the window.
Key = tuple[str, str, str]


def _own_time(rule: dict[str, Any], entry: Entry) -> float:
    return float(entry.payload["at"] if "time_path" in rule else entry.time)


def _first_window(name: str, entries: list[Entry]) -> str:
    """Return the beginning of the window of a log's first message; "" if it has none."""
    if not entries:
        return ""
    [rule] = [rule for rule in RULES if rule["name"] == name]
    return format_timestamp(_own_time(rule, entries[0]) // rule["size"] * rule["size"])


def recompute(rule: dict[str, Any], entries: list[Entry]) -> dict[Key, dict[str, int]]:
    """Return the results of all windows that are over, as the messages say that follow them.

    Windows by time of publishing are over when nothing is published any more.
    """
    size, lateness = rule["size"], rule.get("allowed_lateness", 0)
    windows: dict[tuple[int, str], list[int]] = defaultdict(list)
    watermark = 0.0
    for entry in entries:
        own, payload = _own_time(rule, entry), entry.payload
        number = int(own // size)
        if (number + 1) * size > watermark:
            group = payload["publisher"] if "group_by" in rule else ""
            windows[number, group].append(payload["n"])
        watermark = max(watermark, own - lateness)
    if "time_path" not in rule:
        watermark = float("inf")
    return {
        (rule["name"], group, format_timestamp(number * size)): {
            "count": len(numbers),
            "sum": sum(numbers),
        }
        for (number, group), numbers in windows.items()
        if (number + 1) * size <= watermark
    }


def missing_results(histories: dict[str, History]) -> Iterator[str]:
    """Yield which results of the newest chapter are not there."""
    if not histories["events"].chapters:
        return
    events = histories["events"].chapters[-1]
    published = set(map(_key, _results(histories, events)))
    for rule in RULES:
        for key, values in recompute(rule, events.entries).items():
            if key not in published:
                yield f"results: {key} is missing: {values}"


def check_results(histories: dict[str, History]) -> Iterator[str]:
    """Yield which results are wrong, or there twice, or marked for no reason."""
    for events in histories["events"].chapters:
        results = _results(histories, events)
        may_be_incomplete = events.number > 0 or histories["events"].broken
        expected = {
            key: values for rule in RULES for key, values in recompute(rule, events.entries).items()
        }
        for key, times in Counter(map(_key, results)).items():
            if times > 1:
                yield f"results: {key} is there {times} times"
        for result in results:
            key = _key(result)
            if result.get("incomplete"):
                # A log that begins looks like one that was lost before.
                is_first = key[2] <= _first_window(result["rule"], events.entries)
                if not may_be_incomplete and not is_first:
                    yield f"results: {key} is marked incomplete, and nothing was lost"
            elif result["values"] != expected.get(key):
                yield f"results: {key} is {result['values']}, not {expected.get(key)}"


def _results(histories: dict[str, History], events: Chapter) -> list[dict[str, Any]]:
    """Return the results that were published while a chapter of events lasted."""
    return [
        entry.payload
        for chapter in histories["aggregations"].chapters
        if chapter.number == events.number
        for entry in chapter.entries
    ]


def _key(result: dict[str, Any]) -> Key:
    return result["rule"], result["group"].get("publisher", ""), result["window"]["start"]
