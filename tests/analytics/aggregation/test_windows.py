"""The results of rules: those of a naive evaluator, however messages come and work is cut."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.analytics.aggregation import cells, windows
from realtime.analytics.aggregation.functions import EXACT_VALUES
from realtime.analytics.aggregation.processor import CLOCK_STEP
from realtime.analytics.aggregation.rule import AggregationSpec, make_spec
from realtime.analytics.processing.contract import Records
from realtime.filters import matches
from realtime.protocol import format_timestamp
from tests.support.rule_reader import NEW_YEAR, Reader

FUNCTIONS = [
    {"name": "n", "function": "count"},
    {"name": "per_second", "function": "rate"},
    {"name": "with_x", "function": "count", "path": "x"},
    {"name": "sum", "function": "sum", "path": "x"},
    {"name": "mean", "function": "avg", "path": "x"},
    {"name": "low", "function": "min", "path": "x"},
    {"name": "high", "function": "max", "path": "x"},
    {"name": "different", "function": "distinct", "path": "x"},
    {"name": "median", "function": "p50", "path": "x"},
    {"name": "p99_9", "function": "p99.9", "path": "x"},
]


def rule(**changes: Any) -> AggregationSpec:
    fields: dict[str, Any] = {"size": 10, "time_path": "at", "functions": FUNCTIONS}
    return make_spec("r", **fields | changes)


# The naive evaluator


def naive(spec: AggregationSpec, payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Work a rule with times in ``at`` (seconds) and a group in ``g`` out, one by one."""
    rows: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    watermark = -math.inf
    for payload in payloads:
        if not matches(spec.filters, payload):
            continue
        at = payload["at"]
        if (at // spec.slide + 1) * spec.slide > watermark and not isinstance(
            payload.get("g"), list
        ):
            for n in range(spec.slides):
                start = (at // spec.slide - n) * spec.slide
                rows[start, group_text(payload.get("g"))].append(payload)
        watermark = max(watermark, at - spec.allowed_lateness)
    return [
        result(spec, start, msgspec.json.decode(group), members)
        for (start, group), members in sorted(rows.items())
        if start + spec.size <= watermark
    ]


def group_text(value: Any) -> str:
    return msgspec.json.encode([[value]] if isinstance(value, bool) else [value]).decode()


def result(
    spec: AggregationSpec, start: int, group: Any, payloads: list[dict[str, Any]]
) -> dict[str, Any]:
    [value] = group
    there = [p["x"] for p in payloads if p.get("x") is not None]
    numbers = [x for x in there if isinstance(x, int | float) and not isinstance(x, bool)]
    exact = sum((Fraction(Decimal(repr(x))) for x in numbers), Fraction(0))
    is_whole = all(isinstance(x, int) for x in numbers)
    ordered = sorted(numbers)

    def percentile(share: Fraction) -> Any:
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None

    scalars = [x for x in there if not isinstance(x, list)]
    end = format_timestamp(start + spec.size)
    return {
        "rule": "r",
        "group": {"g": value[0] if isinstance(value, list) else value},
        "window": {"start": format_timestamp(start), "end": end},
        "values": {
            "n": len(payloads),
            "per_second": len(payloads) / spec.size,
            "with_x": len(there),
            "sum": (int(exact) if is_whole else float(exact)) if numbers else None,
            "mean": float(exact / len(numbers)) if numbers else None,
            "low": min(numbers, default=None),
            "high": max(numbers, default=None),
            "different": len({msgspec.json.encode(x) for x in scalars}),
            "median": percentile(Fraction(1, 2)),
            "p99_9": percentile(Fraction(999, 1000)),
        },
        "timestamp": end,
    }


values = st.one_of(
    st.integers(-5, 20),
    # Never equal to an integer, whose form would depend on which came first.
    st.integers(-300, 300).map(lambda n: n + 0.25),
    st.decimals(-99, 99, places=3).filter(lambda d: d % 1 != 0).map(float),
    st.integers(-(10**20), 10**20),
    st.sampled_from(["a", "b", "1", "", "\0true", "x" * 200]),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=1),
)
group_values = st.sampled_from(["a", "b", "", "ü", 1, 2.5, True, False, None, [1]])
payloads = st.lists(
    st.fixed_dictionaries(
        {"at": st.integers(NEW_YEAR, NEW_YEAR + 60)}, optional={"g": group_values, "x": values}
    ),
    max_size=60,
)
rules = st.builds(
    lambda sizes, lateness, filters: rule(
        size=sizes[0],
        slide=sizes[1],
        allowed_lateness=lateness,
        group_by=["g"],
        filters=filters,
    ),
    st.sampled_from([(10, None), (1, None), (12, 3), (20, 10), (7, 1)]),
    st.sampled_from([0, 3, 15, 100]),
    st.sampled_from([None, {"g": ["a", "b", True]}]),
)
# What is done after how many messages.
cuts = st.dictionaries(
    st.integers(0, 60), st.sampled_from(["take", "save", "restart"]), max_size=12
)


def run(spec: AggregationSpec, messages: Sequence[Any], steps: dict[int, str]) -> list[bytes]:
    reader = Reader(spec)
    waiting: list[Any] = []
    for number, message in enumerate(messages):
        waiting.append(message)
        step = steps.get(number)
        if step is None:
            continue
        reader.take(*waiting)
        waiting = []
        if step != "take":
            reader.save()
        if step == "restart":
            reader.restart()
    reader.take(*waiting)
    reader.save()
    return reader.outputs


@settings(max_examples=300, deadline=None)
@given(rules, payloads, cuts)
def test_results_are_those_of_a_naive_evaluator_to_the_byte(
    spec: AggregationSpec, messages: list[dict[str, Any]], steps: dict[int, str]
) -> None:
    outputs = run(spec, messages, steps)
    rows = [msgspec.json.decode(output) for output in outputs]
    assert sorted(rows, key=repr) == sorted(naive(spec, messages), key=repr)
    assert outputs == run(spec, messages, {})
    # One after another: by end, then by group.
    order = [(entry["timestamp"], group_text(*entry["group"].values())) for entry in rows]
    assert order == sorted(order)


@settings(max_examples=30, deadline=None)
@given(st.integers(EXACT_VALUES - 1, 3000), cuts, st.integers())
def test_sketches_do_not_depend_on_how_work_is_cut(
    count: int, steps: dict[int, str], seed: int
) -> None:
    chance = random.Random(seed)
    spec = rule(size=4, slide=2, allowed_lateness=60)
    numbers = [chance.lognormvariate(3, 2) for _ in range(count)]
    messages = [{"at": NEW_YEAR + n % 2 * 2, "x": x} for n, x in enumerate(numbers)]
    messages += [{"at": NEW_YEAR + 100}]
    scaled = {at * count // 60: step for at, step in steps.items()}
    outputs = run(spec, messages, scaled)
    assert outputs == run(spec, messages, {})
    everything = msgspec.json.decode(outputs[1])["values"]
    assert everything["n"] == count
    assert everything["different"] == pytest.approx(len(set(numbers)), rel=0.1)
    assert everything["median"] == pytest.approx(statistics.median_low(numbers), rel=0.011)
    assert everything["mean"] == pytest.approx(statistics.fmean(numbers))


# Windows and times


def test_windows_are_aligned_to_1970_and_published_once_when_they_are_over() -> None:
    reader = Reader(rule(size=60, allowed_lateness=5))
    reader.take({"at": "2013-01-01T00:00:59.999Z"}, {"at": "2013-01-01T00:01:00Z"})
    assert reader.results == []
    reader.take({"at": "2013-01-01T01:01:04.9+01:00"})
    assert reader.results == []
    reader.take({"at": "2013-01-01T00:01:05"})
    [only] = reader.results
    assert only["window"] == {
        "start": "2013-01-01T00:00:00.000Z",
        "end": "2013-01-01T00:01:00.000Z",
    }
    assert only["timestamp"] == "2013-01-01T00:01:00.000Z"
    assert only["group"] == {} and "incomplete" not in only
    reader.take({"at": "2013-01-01T00:00:30Z"}, {"at": "2013-01-01T00:01:30Z"})
    assert len(reader.results) == 1
    assert reader.processor.windows.progress.late == 1


def test_times_are_text_or_numbers_of_seconds_or_milliseconds() -> None:
    reader = Reader(rule(functions=FUNCTIONS[:1]))
    at = datetime(2013, 1, 1, 0, 0, 3, tzinfo=UTC)
    reader.take(
        *({"at": entry} for entry in (at.isoformat(), NEW_YEAR + 3, NEW_YEAR * 1000 + 3500)),
        {"at": NEW_YEAR + 3.5},
    )
    refused: tuple[Any, ...] = (
        None,
        True,
        [],
        "",
        "yesterday",
        "2013-13-01T00:00:00Z",
        -1,
        1e300,
        -1e300,
    )
    reader.take(*({"at": entry} for entry in refused), {}, 7, None)
    reader.take({"at": NEW_YEAR + 10})
    [only] = reader.results
    assert only["values"] == {"n": 4}
    assert reader.processor.windows.progress.untimed == len(refused) + 3


def test_windows_by_time_of_publishing_close_by_the_clock() -> None:
    reader = Reader(rule(time_path="", functions=FUNCTIONS[:1]))
    reader.take({}, {}, published=NEW_YEAR + 1.5)
    for now in (NEW_YEAR + 5, NEW_YEAR + 9.99):
        reader.processor.tick(now)
        assert not reader.processor.urgent
    reader.processor.tick(NEW_YEAR + 10)
    assert reader.processor.urgent
    [only] = reader.results
    assert only["values"] == {"n": 2}


def test_windows_by_times_in_messages_do_not_close_by_the_clock() -> None:
    reader = Reader(rule())
    reader.take({"at": NEW_YEAR})
    reader.processor.tick(NEW_YEAR + 1e6)
    assert not reader.processor.urgent and reader.results == []


# Wrong clocks


@pytest.mark.parametrize("lateness", [0, 7200])
@pytest.mark.parametrize("ahead", [30, 18_000, 10 * 86_400, 1e9])
def test_a_message_whose_time_is_ahead_makes_no_other_one_late(lateness: int, ahead: float) -> None:
    reader = Reader(rule(size=60, allowed_lateness=lateness, functions=FUNCTIONS[:1]))
    reader.offset = 1000
    for second in range(0, 21_600, 10):
        at = NEW_YEAR + second
        reader.take({"at": at}, *[{"at": at + ahead}] * (second == 9000), published=at)
    progress = reader.processor.windows.progress
    assert progress.late == 0
    assert reader.processor.left_out["too far ahead"] == (ahead > max(lateness, 60))
    complete = [entry["values"]["n"] for entry in reader.results if "incomplete" not in entry]
    assert len(complete) > 100
    # Each window is whole; one has the message that is only a little ahead too.
    assert sorted(complete) == [6] * (len(complete) - 1) + [7 if ahead == 30 else 6]
    assert f"{progress.ahead} too far ahead" in progress.explain()


def test_the_allowed_skew_is_an_option() -> None:
    for skew, counted in (0, 1), (5, 2), (3600, 3):
        reader = Reader(rule(allowed_skew=skew, functions=FUNCTIONS[:1]))
        for ahead in 0, 5, 3000:
            reader.take({"at": NEW_YEAR + ahead}, published=NEW_YEAR)
        assert reader.processor.windows.progress.ahead == 3 - counted


@pytest.mark.parametrize("time_path", ["", "at"])
def test_a_watermark_that_is_ahead_of_the_log_is_put_back(time_path: str) -> None:
    """As earlier versions saved it, and as a log's clock leaves it that was wrong for a while."""
    reader = Reader(rule(time_path=time_path, functions=FUNCTIONS[:1]))
    reader.offset = 1000
    wrong = NEW_YEAR + 10 * 86_400
    for at in NEW_YEAR - 20, NEW_YEAR - 10, wrong, wrong + 3:
        reader.take({"at": at}, published=at)
    reader.save()
    reader.restart()
    before = len(reader.results)
    for second in range(3, 40):
        at = NEW_YEAR + second
        reader.take({"at": at}, published=at)
    shown = [
        (entry["timestamp"][17:19], entry["values"]["n"], "incomplete" in entry)
        for entry in reader.results[before:]
    ]
    assert shown == [("10", 7, True), ("20", 10, False), ("30", 10, False)]
    assert reader.processor.windows.progress.late == 0


def test_a_watermark_that_is_ahead_is_put_back_without_messages() -> None:
    reader = Reader(rule(time_path=""))
    reader.processor.tick(NEW_YEAR + 1000)
    reader.processor.tick(NEW_YEAR)
    assert reader.processor.windows.progress.watermark == NEW_YEAR


def test_a_clock_is_put_back_in_the_midst_of_a_read() -> None:
    def outputs(*sizes: int) -> list[dict[str, Any]]:
        reader = Reader(rule(time_path="", functions=FUNCTIONS[:1]))
        seconds = [*range(86_400, 86_420), *range(40)]
        times = [NEW_YEAR + float(second) for second in seconds]
        for size in sizes:
            chosen, times = times[:size], times[size:]
            records = Records(reader.offset + 1, [{}] * size, chosen)
            reader.processor.take(records)
            reader.offset = records.last
            reader.save()
        return reader.results

    assert outputs(60) == outputs(20, 40) == outputs(7, 30, 23)
    assert [entry["values"]["n"] for entry in outputs(60)[-3:]] == [10, 10, 10]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-90, 90), st.sampled_from(["take", "tick", "save", "restart"]))),
    st.sampled_from([0, 3, 100]),
)
def test_no_message_is_left_out_however_the_clock_of_the_log_goes(
    steps: list[tuple[int, str]], lateness: int
) -> None:
    """By time of publishing: each counts once, but those that were ahead when a clock went back."""
    reader = Reader(rule(time_path="", allowed_lateness=lateness, functions=FUNCTIONS[:1]))
    now, newest, taken, has_gone_back = float(NEW_YEAR), float(NEW_YEAR), 0, False
    for change, step in steps:
        now += change
        has_gone_back |= now < newest - CLOCK_STEP
        newest = now if now < newest - CLOCK_STEP else max(newest, now)
        if step == "take":
            reader.take({}, published=now)
            taken += 1
        elif step == "tick":
            reader.processor.tick(now)
        else:
            reader.save()
            if step == "restart":
                reader.restart()
    reader.processor.tick(newest + 3600)
    counted = sum(entry["values"]["n"] for entry in reader.results)
    assert reader.processor.windows.progress.late == 0
    assert counted == taken or (has_gone_back and counted < taken)


def test_messages_of_a_server_whose_clock_is_a_little_behind_count_all() -> None:
    """After a failover: what was read by the time of one server is followed by that of another."""
    reader = Reader(rule(time_path="", functions=FUNCTIONS[:1]))
    reader.offset = 1000
    reader.take(*[{}] * 5, published=NEW_YEAR + 19)
    reader.processor.tick(NEW_YEAR + 30)
    for second in range(24, 61):
        reader.take({}, published=NEW_YEAR + second)
    counts = [entry["values"]["n"] for entry in reader.results]
    assert counts == [5, 16, 10, 10]
    assert reader.processor.windows.progress.late == 0


def test_a_gap_in_time_publishes_no_empty_windows() -> None:
    reader = Reader(rule(size=60, slide=1, functions=FUNCTIONS[:1]))
    reader.take({"at": NEW_YEAR}, {"at": NEW_YEAR + 500_000})
    assert [entry["values"]["n"] for entry in reader.results] == [1] * 60


# Groups


def test_a_group_is_a_scalar_or_null() -> None:
    reader = Reader(rule(group_by=["g", "h.i"], functions=FUNCTIONS[:1]))
    messages: list[dict[str, Any]] = [
        {"g": 1, "h": {"i": "x"}},
        {"g": 1.0, "h": {"i": "x"}},
        {"g": True, "h": {"i": "x"}},
        {"g": "1"},
        {"g": None, "h": {"i": None}},
        {},
        {"g": {}},
        {"g": "y" * 1001},
    ]
    reader.take(*({"at": NEW_YEAR} | entry for entry in messages), {"at": NEW_YEAR + 10})
    rows = [(*entry["group"].values(), entry["values"]["n"]) for entry in reader.results]
    assert sorted(rows, key=repr) == sorted(
        [(1, "x", 2), (True, "x", 1), ("1", None, 1), (None, None, 2)], key=repr
    )
    assert reader.results[0]["group"].keys() == {"g", "h.i"}
    assert reader.processor.windows.progress.ungrouped == 2


def test_more_groups_than_there_may_be_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MAX_GROUPS", 3)
    reader = Reader(rule(group_by=["g"], functions=FUNCTIONS[:1]))
    reader.take(*({"at": NEW_YEAR, "g": n % 5} for n in range(10)), {"at": NEW_YEAR + 10})
    assert [entry["group"]["g"] for entry in reader.results] == [0, 1, 2]
    assert reader.processor.windows.progress.crowded == 4


HOSTILE: list[Any] = [
    *(b"1" * digits for digits in (19, 20, 301, 400, 4000, 5000)),
    *(b"-" + b"9" * digits for digits in (19, 301, 5000)),
    *(b"1e308", b"-1e308", b"5e-324", b"-0.0", b"0", b"1e300", b"true", b"null"),
    *(b'""', b'"' + b"x" * 100_000 + b'"', rb'"\u0000"', rb'"\u0000s"', b'"9999-12-31"'),
    *(b'"0001-01-01T00:00:00+23:59"', b"[[]]", b'{"a":{}}', b"[" * 5000 + b"]" * 5000),
]


@pytest.mark.parametrize("path", ["at", "g", "x"])
def test_nothing_that_can_be_published_stops_a_rule(path: str) -> None:
    reader = Reader(rule(group_by=["g"], size=20, slide=10, filters={"k": 1}))
    good = {"at": NEW_YEAR, "g": "a", "x": 1, "k": 1}
    for number, text in enumerate(HOSTILE):
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            continue
        reader.take({**good, path: value}, {**good, "k": value}, value, good)
        reader.save()
        if number % 2:
            reader.restart()
    reader.take({**good, "at": NEW_YEAR + 100})
    assert any(entry["group"] == {"g": "a"} for entry in reader.results)
    for entry in reader.results:
        assert all(value is None or math.isfinite(value) for value in entry["values"].values()), (
            entry
        )


# What was lost


def test_windows_that_lack_messages_say_so() -> None:
    reader = Reader(rule(functions=FUNCTIONS[:1]))
    reader.take({"at": NEW_YEAR + 1}, {"at": NEW_YEAR + 11})
    reader.save()
    reader.processor.skip(3, 9)
    reader.save()
    reader.restart()
    reader.take(*({"at": NEW_YEAR + 10 * n} for n in (3, 4, 5)))
    flags = [(entry["timestamp"][17:19], "incomplete" in entry) for entry in reader.results]
    assert flags == [("10", False), ("20", True), ("40", True), ("50", False)]


def test_a_rule_that_begins_in_the_midst_says_so_of_its_first_window() -> None:
    reader = Reader(rule(functions=FUNCTIONS[:1]))
    reader.offset = 1000
    reader.take(*({"at": NEW_YEAR + 5 * n} for n in range(5)))
    assert ["incomplete" in entry for entry in reader.results] == [True, False]


def test_a_log_that_begins_makes_its_first_window_incomplete() -> None:
    """A store that lost everything looks the same as a new one."""
    for time_path in "", "at":
        reader = Reader(rule(time_path=time_path, functions=FUNCTIONS[:1]))
        for second in range(4, 40):
            reader.take({"at": NEW_YEAR + second}, published=NEW_YEAR + second)
        assert ["incomplete" in entry for entry in reader.results] == [True, False, False]


# What is stored


def test_only_what_changed_is_stored_and_what_is_over_goes() -> None:
    reader = Reader(rule(group_by=["g"]))
    reader.take({"at": NEW_YEAR, "g": "a"}, {"at": NEW_YEAR, "g": "b"})
    assert sum(map(len, reader.processor.save().parts)) == 2
    reader.take({"at": NEW_YEAR, "g": "a"})
    assert [list(part) for part in reader.processor.save().parts] == [[f'{NEW_YEAR // 10}:["a"]']]
    reader.take({"at": NEW_YEAR + 10, "g": "a"})
    names = [f'{NEW_YEAR // 10}:["{group}"]' for group in "ab"]
    assert set(reader.processor.save().removed) == {*names, "ahead"}


@settings(max_examples=300, deadline=None)
@given(
    rules,
    payloads,
    st.dictionaries(st.integers(0, 60), st.integers(0, 3), max_size=12),
    cuts,
)
def test_a_large_state_that_was_saved_in_part_counts_nothing_twice(
    spec: AggregationSpec,
    messages: list[dict[str, Any]],
    deaths: dict[int, int],
    steps: dict[int, str],
) -> None:
    """A process is killed when it has saved some parts of the state; the next one reads again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "PART_BYTES", 100)
        reader, left = Reader(spec), dict(deaths)
        while reader.offset < len(messages):
            number = reader.offset
            reader.take(messages[number])
            if number in left:
                reader.save_some(left.pop(number))
                reader.offset = reader.saved_at
            elif number in steps:
                reader.save()
        reader.save()
    assert reader.outputs == run(spec, messages, {})
    assert "ahead" not in reader.fields


def test_offsets_of_a_log_that_is_gone_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "PART_BYTES", 0)
    reader = Reader(rule(group_by=["g"], functions=FUNCTIONS[:1]))
    reader.take(*({"at": NEW_YEAR, "g": g} for g in "abc"))
    reader.save()
    reader.restart()
    reader.processor.skip(4, None)
    reader.offset = 0
    reader.take(*({"at": NEW_YEAR, "g": g} for g in "abc"), {"at": NEW_YEAR + 10, "g": "a"})
    assert [entry["values"]["n"] for entry in reader.results] == [2, 2, 2]


def test_what_a_failover_replaces_of_a_state_saved_in_part_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cells, "PART_BYTES", 0)
    reader = Reader(rule(group_by=["g"], functions=FUNCTIONS[:1]))
    reader.take(*({"at": NEW_YEAR, "g": g} for g in "abc"))
    reader.save_some(2)
    messages = [*({"at": NEW_YEAR, "g": g} for g in "abc"), {"at": NEW_YEAR + 10, "g": "a"}]
    records = Records(1, messages, [NEW_YEAR + 1e6] * 4, "another epoch")
    reader.processor.take(records)
    assert [(entry["values"]["n"], entry["incomplete"]) for entry in reader.results] == [
        *[(1, True)] * 3
    ]


def test_many_results_are_published_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_RESULTS", 3)
    reader = Reader(rule(size=1, group_by=["g"], functions=FUNCTIONS[:1]))
    reader.take(*({"at": NEW_YEAR + n // 2, "g": n % 2} for n in range(12)))
    published = []
    while reader.processor.urgent:
        published.append(len(reader.processor.save().outputs))
    assert published == [4, 4, 2]
