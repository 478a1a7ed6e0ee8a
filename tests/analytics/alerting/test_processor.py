"""Alert rules: what fires, what is resolved, and when; against a naive reading of the rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.analytics.alerting.incidents import AlertGroup, AlertState, write_time
from realtime.analytics.alerting.processor import AlertProcessor, explain
from realtime.analytics.alerting.rule import (
    AlertSpec,
    Baseline,
    DeviationCondition,
    ThresholdCondition,
)
from realtime.analytics.processing.contract import Records
from realtime.protocol import format_timestamp
from realtime.protocol.times import read_time

ABOVE = ThresholdCondition("above", 10.0, 5.0)
BELOW = ThresholdCondition("below", 5.0, 10.0)
DEVIATION = DeviationCondition(3.0, 2.0, alpha=0.2, samples=4)

Alert = dict[str, Any]


def rule(condition: ThresholdCondition | DeviationCondition = ABOVE, **fields: Any) -> AlertSpec:
    return AlertSpec("load", "metrics", "v", condition, **({"group_by": ["g"]} | fields))


class Bench:
    """A processor that is fed by hand and saved when asked, as the runner would."""

    def __init__(self, rule: AlertSpec, **options: Any) -> None:
        self.rule = rule
        self.options = options
        self.fields: dict[str, bytes] = {}
        self.alerts: list[Alert] = []
        self._offset = 1
        self.restart()

    def restart(self, rule: AlertSpec | None = None, **options: Any) -> None:
        """Go on with a new object from what was saved."""
        self.rule = rule or self.rule
        self.processor = AlertProcessor(self.rule, **self.options | options)
        self.processor.restore(self.fields)

    def save(self) -> list[Alert]:
        """Save, check that a second save has nothing, and return the alerts."""
        changes = self.processor.save()
        self.fields |= changes.fields
        for name in changes.removed:
            self.fields.pop(name, None)
        assert not self.processor.urgent and not any(self.processor.save())
        new = [msgspec.json.decode(output) for output in changes.outputs]
        self.alerts += new
        return new

    def take(self, *payloads: Any, at: float = 0.0) -> list[Alert]:
        """Take messages that were published at a time; return the alerts."""
        self.processor.take(Records(self._offset, list(payloads), [at] * len(payloads)))
        self._offset += len(payloads)
        return self.save()

    def values(self, *numbers: float, at: float = 0.0) -> list[Alert]:
        """Take the values of one group."""
        return self.take(*({"v": number} for number in numbers), at=at)

    def stored(self) -> list[AlertGroup]:
        """Return the groups that are saved, the oldest first; their order is all that counts."""
        saved = [
            msgspec.json.decode(self.fields[n], type=AlertGroup)
            for n in self.fields
            if n.startswith("g:")
        ]
        groups = sorted(saved, key=lambda group: group.turn)
        return [msgspec.structs.replace(group, turn=0) for group in groups]

    def forget(self) -> None:
        """Lose what was saved, and go on."""
        self.fields = {}
        self.restart()

    def reconcile(self, *told: Alert, now: float = 0.0) -> list[Alert]:
        """Compare with the last message of each alert that people have been told of."""
        alerts = {alert["alert_id"]: alert for alert in told}
        firing = {name for name, alert in alerts.items() if alert["state"] == "firing"}
        differences = {
            name: group_of(alerts[name]) if name in alerts else None
            for name in firing ^ self.processor.alert_ids
        }
        self.processor.reconcile(differences, now)
        return self.save()

    def tick(self, now: float) -> list[Alert]:
        self.processor.tick(now)
        return self.save()


def group_of(alert: Alert) -> AlertGroup:
    """Return what the ledger has of an alert."""
    state = AlertState.FIRING if alert["state"] == "firing" else AlertState.OK
    since = read_time(alert["started_at"]) or 0.0
    return AlertGroup(
        alert["group"],
        state,
        value=alert["value"],
        at=since,
        since=since,
        alert_id=alert["alert_id"],
    )


def states(alerts: Iterable[Alert]) -> list[str]:
    return [alert["state"] for alert in alerts]


# Thresholds


def test_an_alert_fires_once_and_is_resolved_once() -> None:
    bench = Bench(rule())
    assert bench.values(1, 10) == []
    (firing,) = bench.values(10.5, 12, at=1000.0)
    assert firing == {
        "alert_id": firing["alert_id"],
        "rule": "load",
        "name": "load",
        "source": "metrics",
        "severity": "warning",
        "state": "firing",
        "group": {"g": None},
        "value": 10.5,
        "threshold": 10.0,
        "started_at": "1970-01-01T00:16:40.000Z",
        "timestamp": "1970-01-01T00:16:40.000Z",
        "message": "load: v of g=None is 10.5, above 10",
    }
    assert bench.values(7, 10, 6, 20) == []  # in the band, and out again
    (resolved,) = bench.values(5, 4, at=1060.0)
    assert resolved == firing | {
        "state": "resolved",
        "value": 5.0,
        "timestamp": "1970-01-01T00:17:40.000Z",
        "resolved_at": "1970-01-01T00:17:40.000Z",
        "reason": "cleared",
        "message": "load: v of g=None is 5, not above 5",
    }
    (again,) = bench.values(11)
    assert again["alert_id"] != firing["alert_id"]


def test_below_is_above_upside_down() -> None:
    bench = Bench(rule(BELOW))
    assert states(bench.values(6, 5, 4.9, 9, 3, 10, 4)) == ["firing", "resolved", "firing"]


def test_groups_have_alerts_of_their_own() -> None:
    bench = Bench(rule(group_by=["g", "h.i"]))
    fired = bench.take(
        {"v": 20, "g": "a", "h": {"i": 1}},
        {"v": 20, "g": "a", "h": {"i": 1.0}},
        {"v": 20, "g": "a", "h": {"i": True}},
        {"v": 20, "g": "b"},
        {"v": 20, "g": ["no label"]},
    )
    assert [alert["group"] for alert in fired] == [
        {"g": "a", "h.i": 1},
        {"g": "a", "h.i": True},
        {"g": "b", "h.i": None},
    ]
    assert len({alert["alert_id"] for alert in fired}) == 3


def test_aggregations_are_grouped_as_they_are() -> None:
    bench = Bench(
        AlertSpec("late", "aggregations", "values.mean", ABOVE, filters={"rule": "delays"})
    )
    group = {"payload.origin": "JFK"}
    result = {"rule": "delays", "group": group, "values": {"mean": 60.5}}
    assert bench.take(result | {"rule": "other"}, result | {"values": {"mean": None}}) == []
    (alert,) = bench.take(result)
    assert alert["group"] == group
    assert alert["message"] == "late: values.mean of payload.origin=JFK is 60.5, above 10"


@pytest.mark.parametrize(
    "payload",
    [
        *(None, [], 7, "v", {}, {"v": None}, {"v": "20"}, {"v": True}, {"v": {"v": 20}}),
        *({"v": 10**400}, {"v": float("nan")}, {"v": float("inf")}, {"v": 20, "g": "x" * 2000}),
    ],
)
def test_what_has_no_value_is_no_business_of_the_rule(payload: Any) -> None:
    bench = Bench(rule())
    assert bench.take(payload) == []
    assert bench.stored() == []


def test_messages_from_before_the_rule_began_are_left_out() -> None:
    bench = Bench(rule(since=100.0))
    assert bench.values(20, at=99.0) == []
    assert states(bench.values(20, at=100.0)) == ["firing"]


# Durations


def test_values_must_be_out_of_bounds_for_a_while() -> None:
    bench = Bench(rule(for_seconds=60.0))
    assert bench.values(20, at=0.0) == []
    assert bench.values(8, at=30.0) == []  # not out of bounds, so it begins anew
    assert bench.values(20, at=40.0) == []
    assert bench.values(20, at=99.0) == []
    (alert,) = bench.values(20, at=100.0)
    assert alert["started_at"] == "1970-01-01T00:00:40.000Z"
    assert alert["timestamp"] == "1970-01-01T00:01:40.000Z"


def test_durations_are_of_the_messages_own_time() -> None:
    bench = Bench(rule(for_seconds=3600.0, time="t"))
    assert bench.take({"v": 20, "t": "2013-01-01T10:00:00Z"}, {"v": 20}, {"v": 20, "t": "?"}) == []
    assert bench.take({"v": 20, "t": "2013-01-01T12:59:59+02:00"}) == []
    (alert,) = bench.take({"v": 20, "t": "2013-01-01T11:00:00Z"})
    assert alert["started_at"] == "2013-01-01T10:00:00.000Z"


def test_messages_own_times_may_be_milliseconds_or_without_an_offset() -> None:
    bench = Bench(rule(time="t"))
    times: list[Any] = [
        1_357_034_400_000,
        1_357_034_400,
        "2013-01-01T10:00:00",
        "2013-01-01t10:00:00z",
    ]
    fired = bench.take(*({"v": 20, "g": number, "t": time} for number, time in enumerate(times)))
    assert [alert["started_at"] for alert in fired] == ["2013-01-01T10:00:00.000Z"] * 4


def test_what_is_left_out_is_logged_once_a_minute() -> None:
    bench = Bench(rule(time="t"), max_groups=1)
    assert bench.processor.tick(1000.0) is None
    bench.take({"v": 20, "t": "soon"}, {"v": 20}, {"v": 20, "t": 1, "g": []})
    bench.take({"v": 20, "t": 1, "g": "a"}, {"v": 20, "t": 1, "g": "b"})
    text = "left out 4 messages: 2 without a time, 1 without a group, 1 in too many groups"
    assert bench.processor.tick(1000.0) == text
    assert bench.processor.tick(2000.0) is None
    bench.take({"v": 20, "t": "soon"})
    assert bench.processor.tick(1059.0) is None
    assert str(bench.processor.tick(1060.0)).startswith("left out 5 messages")


def test_how_many_were_left_out_is_saved() -> None:
    bench = Bench(rule(time="t"))
    for _ in range(2):
        bench.take({"v": 20, "t": "soon"}, {"v": 20, "t": 1, "g": []})
        bench.restart()
    expected = {"without a time": 2, "without a group": 2, "in too many groups": 0}
    assert bench.processor.left_out == msgspec.json.decode(bench.fields["left_out"]) == expected
    assert explain(expected) == "2 without a time, 2 without a group, 0 in too many groups"
    assert bench.processor.tick(1000.0) is None  # it was logged by who counted it
    bench.restart(rule(time="at"))  # another definition counts anew
    bench.save()
    assert not any(msgspec.json.decode(bench.fields["left_out"]).values())


@pytest.mark.parametrize(
    "time",
    [
        1.3e9,
        1_300_000_000_000,
        "2011-03-13T07:06:40",
        "2011-03-13t07:06:40z",
        "2016-12-31T23:59:60Z",
    ],
)
def test_every_time_that_aggregations_read_is_read(time: Any) -> None:
    (firing,) = Bench(rule(time="t")).take({"v": 20, "t": time})
    assert firing["started_at"] == format_timestamp(read_time(time) or 0.0)


def test_a_wrong_time_in_the_future_does_not_keep_a_rule_from_firing() -> None:
    bench = Bench(rule(for_seconds=60.0, time="t"))
    assert bench.take({"v": 20, "t": 9e9}, {"v": 20, "t": 100}, {"v": 20, "t": 159}) == []
    assert states(bench.take({"v": 20, "t": 160})) == ["firing"]


def test_without_values_an_alert_is_resolved_if_the_rule_says_so() -> None:
    bench = Bench(rule(resolve_after=60.0))
    bench.values(20, at=1000.0)
    assert bench.values(20, at=1030.0) == []
    assert bench.tick(1089.9) == []
    (resolved,) = bench.tick(1090.0)
    assert resolved["reason"] == "no_data"
    assert resolved["resolved_at"] == write_time(1090.0)
    assert resolved["message"] == "load: v of g=None has had no value for 60 s; the last one was 20"
    assert bench.tick(5000.0) == []

    keeping = Bench(rule())
    keeping.values(20, at=1000.0)
    assert keeping.tick(1e9) == []


def test_a_gap_ends_what_has_not_fired_yet() -> None:
    bench = Bench(rule(for_seconds=50.0, resolve_after=60.0))
    bench.values(20, at=1000.0)
    assert bench.values(20, at=1060.0) == []
    assert states(bench.values(20, at=1110.0)) == ["firing"]


# Deviations


def test_what_is_unusual_fires_and_teaches_nothing() -> None:
    bench = Bench(rule(DEVIATION))
    assert bench.values(9, 11, 9, 11, 9, 11) == []
    (group,) = bench.processor.quiet.values()
    before = msgspec.json.encode(group.baseline)
    (firing,) = bench.values(50, 50, 50, 49, -50)
    assert firing["threshold"] == pytest.approx(10 + 3, abs=0.5)
    assert "more than 3 standard deviations from" in firing["message"]
    (group,) = bench.processor.firing.values()
    assert msgspec.json.encode(group.baseline) == before
    (resolved,) = bench.values(10)
    assert resolved["message"].endswith("within 2 standard deviations of what is usual")


def test_the_first_values_only_teach() -> None:
    assert Bench(rule(DEVIATION)).values(1, 1, 1000, 1) == []


def test_a_small_distance_is_none_however_steady_the_values() -> None:
    steady = DeviationCondition(3.0, 2.0, alpha=0.2, samples=4, least=0.5)
    assert Bench(rule(steady)).values(1, 1, 1, 1, 1, 1.5, 1) == []
    assert states(Bench(rule(steady)).values(1, 1, 1, 1, 1, 1.6, 1)) == ["firing", "resolved"]
    assert states(Bench(rule(DEVIATION)).values(1, 1, 1, 1, 1, 1.1)) == ["firing"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_the_baseline_is_the_weighted_mean_and_variance(values: list[float], alpha: float) -> None:
    baseline = Baseline()
    for value in values:
        baseline.learn(value, alpha)
    weights = [alpha * (1 - alpha) ** age for age in range(len(values))]
    weights[-1] /= alpha
    weighted = list(zip(weights, reversed(values), strict=True))
    mean = sum(weight * value for weight, value in weighted)
    variance = sum(weight * (value - mean) ** 2 for weight, value in weighted)
    assert baseline.mean == pytest.approx(mean, rel=1e-6, abs=1e-3)
    assert baseline.variance == pytest.approx(variance, rel=1e-6, abs=1e-3)


def test_values_that_no_float_holds_when_squared_break_nothing() -> None:
    bench = Bench(rule(DeviationCondition(3.0, 2.0, alpha=0.2, samples=2)))
    bench.values(1e308, -1e308, 1e308, -1e308, 1e308)
    bench.restart()
    assert states(bench.values(*[1, 2] * 20, 50)) == ["firing"]


# Any values


GROUPS = st.sampled_from(["a", "b", None])
NUMBERS = st.one_of(st.integers(0, 15), st.sampled_from([4.9, 5.1, 9.9, 10.1, None, "no number"]))
MESSAGES = st.lists(st.tuples(GROUPS, NUMBERS, st.integers(0, 40)), max_size=60)
RULES = st.builds(
    rule,
    st.sampled_from(
        [
            ABOVE,
            BELOW,
            DeviationCondition(1.5, 0.5, 0.3, 3),
            ThresholdCondition("above", 10.0, 10.0),
        ]
    ),
    for_seconds=st.sampled_from([0.0, 30.0]),
    resolve_after=st.sampled_from([None, 60.0]),
)


def play(bench: Bench, messages: list[tuple[Any, Any, int]], restarts: Iterator[bool]) -> None:
    now = 1000.0
    for group, number, pause in messages:
        now += pause
        bench.tick(now)
        bench.take({"g": group, "v": number}, at=now)
        if next(restarts):
            bench.restart()


def always(value: bool) -> Iterator[bool]:
    while True:
        yield value


@given(RULES, MESSAGES, st.lists(st.booleans(), min_size=60, max_size=60))
def test_a_restart_anywhere_changes_nothing(
    spec: AlertSpec, messages: list[tuple[Any, Any, int]], restarts: list[bool]
) -> None:
    steady, restarted = Bench(spec, max_groups=2), Bench(spec, max_groups=2)
    play(steady, messages, always(False))
    play(restarted, messages, iter(restarts))
    assert steady.alerts == restarted.alerts
    assert steady.stored() == restarted.stored()


@given(RULES, MESSAGES)
def test_firing_and_resolved_take_turns(
    spec: AlertSpec, messages: list[tuple[Any, Any, int]]
) -> None:
    bench = Bench(spec)
    play(bench, messages, always(False))
    for label in ("a", "b", None):
        alerts = [alert for alert in bench.alerts if alert["group"] == {"g": label}]
        assert states(alerts) == (["firing", "resolved"] * len(alerts))[: len(alerts)]
        fired, resolved = alerts[::2], alerts[1::2]
        for first, last in zip(fired, resolved, strict=False):
            assert first["alert_id"] == last["alert_id"]
            assert first["started_at"] == last["started_at"] <= last["resolved_at"]
        assert len({alert["alert_id"] for alert in fired}) == len(fired)


@given(MESSAGES, st.sampled_from([0, 20, 50]))
def test_thresholds_as_the_rule_reads(
    messages: list[tuple[Any, Any, int]], for_seconds: int
) -> None:
    """The same, written down per group from the whole list of its values."""
    bench = Bench(rule(for_seconds=float(for_seconds)))
    play(bench, messages, always(False))
    expected: list[tuple[Any, str, float]] = []
    since: dict[Any, float] = {}
    firing: set[Any] = set()
    now = 1000.0
    for group, number, pause in messages:
        now += pause
        if number is None or isinstance(number, str):
            continue
        if group in firing:
            if number <= 5:
                firing.remove(group)
                del since[group]
                expected.append((group, "resolved", now))
        elif number > 10:
            if now - since.setdefault(group, now) >= for_seconds:
                firing.add(group)
                expected.append((group, "firing", now))
        else:
            since.pop(group, None)
    alerts = [
        (alert["group"]["g"], alert["state"], read_time(alert["timestamp"]))
        for alert in bench.alerts
    ]
    assert alerts == expected


@given(st.lists(st.floats(5.0, 10.0, exclude_min=True), max_size=50), st.booleans())
def test_nothing_happens_inside_the_band(values: list[float], was_firing: bool) -> None:
    bench = Bench(rule())
    if was_firing:
        bench.values(11)
    assert bench.values(*values) == []


# State


def test_only_what_changed_is_saved() -> None:
    bench = Bench(rule(DEVIATION))
    bench.take({"v": 1, "g": "a"}, {"v": 1, "g": "b"})
    bench.processor.take(Records(10, [{"v": 2, "g": "b"}], [0.0]))
    assert list(bench.processor.save().fields) == ['g:{"g":"b"}']


def test_quiet_groups_of_a_threshold_take_no_room() -> None:
    bench = Bench(rule())
    bench.take(*({"v": 1, "g": number} for number in range(100)))
    bench.take({"v": 20, "g": 1}, {"v": 1, "g": 1})
    assert bench.fields.keys() == {"rule"}
    assert not bench.processor.quiet


def test_the_number_of_groups_is_bounded() -> None:
    bench = Bench(rule(for_seconds=10.0), max_groups=3)
    bench.take(*({"v": 20, "g": number} for number in range(4)), at=0.0)
    assert len(bench.stored()) == 3
    fired = bench.take(*({"v": 20, "g": number} for number in (3, 2, 1, 0)), at=10.0)
    assert [alert["group"]["g"] for alert in fired] == [3, 2, 1]  # 0 was the oldest, and is new
    assert bench.take({"v": 20, "g": 9}, at=10.0) == bench.take({"v": 20, "g": 9}, at=30.0) == []
    assert len(bench.stored()) == 3


def test_alerts_are_resolved_when_their_rule_changes_or_ends() -> None:
    for changed, ended, reason in (
        (rule(ThresholdCondition("above", 15.0, 5.0)), False, "rule_changed"),
        (rule(since=1.0), False, "rule_changed"),
        (rule(), True, "rule_ended"),
    ):
        bench = Bench(rule())
        (firing,) = bench.values(20, at=50.0)
        bench.restart(changed, ended=ended)
        assert bench.processor.urgent
        (resolved,) = bench.save()
        assert (resolved["reason"], resolved["alert_id"]) == (reason, firing["alert_id"])
        assert bench.fields.keys() == {"rule"}
        assert states(bench.values(20, at=60.0)) == ([] if ended else ["firing"])


def test_a_lost_message_changes_no_state() -> None:
    bench = Bench(rule())
    bench.values(20)
    bench.processor.skip(2, 5)
    bench.processor.skip(6, None)
    assert states(bench.values(1)) == ["resolved"]


@given(st.floats(allow_nan=False))
def test_any_time_can_be_written(seconds: float) -> None:
    assert write_time(seconds).endswith("Z")


def test_an_alert_has_the_same_id_after_a_restart_whatever_form_its_time_has() -> None:
    ids = set()
    for has_restart in (False, True):
        bench = Bench(rule(for_seconds=10.0, time="t"))
        bench.take({"v": 20, "t": 1000})
        if has_restart:
            bench.restart()
        (alert,) = bench.take({"v": 20, "t": 1010})
        ids.add(alert["alert_id"])
    assert len(ids) == 1


# What a store has lost


def test_a_firing_alert_goes_on_after_its_state_was_lost() -> None:
    bench = Bench(rule(resolve_after=60.0))
    (firing,) = bench.values(11, at=1000.0)
    bench.forget()
    assert bench.reconcile(firing, now=2000.0) == []
    assert bench.values(20, 7, at=2001.0) == []  # still bad: it fires under no other id
    assert bench.reconcile(firing) == []
    bench.restart()
    (resolved,) = bench.values(4, at=2002.0)
    assert resolved == firing | {
        "state": "resolved",
        "value": 4.0,
        "timestamp": "1970-01-01T00:33:22.000Z",
        "resolved_at": "1970-01-01T00:33:22.000Z",
        "reason": "cleared",
        "message": "load: v of g=None is 4, not above 5",
    }


def test_a_firing_alert_whose_state_was_lost_ends_without_values() -> None:
    bench = Bench(rule(resolve_after=60.0))
    (firing,) = bench.values(11, at=1000.0)
    bench.forget()
    bench.reconcile(firing, now=2000.0)
    assert bench.tick(2059.0) == []
    (resolved,) = bench.tick(2060.0)
    assert (resolved["alert_id"], resolved["reason"]) == (firing["alert_id"], "no_data")


@pytest.mark.parametrize(
    ("changed", "ended", "reason"),
    [
        (rule(), True, "rule_ended"),
        (rule(group_by=["host"]), False, "rule_changed"),  # no value would be of that group
        (rule(DEVIATION), False, "lost"),  # nobody knows what is usual any more
    ],
)
def test_an_alert_that_cannot_go_on_is_resolved(
    changed: AlertSpec, ended: bool, reason: str
) -> None:
    bench = Bench(rule())
    (firing,) = bench.values(11)
    bench.fields = {}
    bench.restart(changed, ended=ended)
    (resolved,) = bench.reconcile(firing)
    assert (resolved["alert_id"], resolved["reason"]) == (firing["alert_id"], reason)
    assert bench.reconcile(resolved) == []


def test_a_deviation_goes_on_if_it_still_knows_what_is_usual() -> None:
    bench = Bench(rule(DEVIATION))
    bench.values(9, 10, 11, 10, 9, 11)
    before = dict(bench.fields)
    (firing,) = bench.values(99)
    bench.fields = before  # as at a replica that had not got the last save
    bench.restart()
    assert bench.reconcile(firing) == []
    assert bench.values(98) == []
    (resolved,) = bench.values(10)
    assert resolved["alert_id"] == firing["alert_id"]


def test_an_alert_that_was_lost_on_the_way_is_published_again() -> None:
    bench = Bench(rule())
    (firing,) = bench.values(11)
    (again,) = bench.reconcile()
    assert again == firing
    assert bench.reconcile(again) == []


def test_the_end_of_an_alert_that_was_lost_on_the_way_is_published_again() -> None:
    bench = Bench(rule())
    assert bench.reconcile() == []
    firing, _ = bench.values(11, 1)
    (resolved,) = bench.reconcile(firing)
    assert (resolved["alert_id"], resolved["reason"]) == (firing["alert_id"], "lost")
    assert bench.values(2) == [] and bench.reconcile(resolved) == []


def test_what_people_know_as_resolved_fires_anew() -> None:
    bench = Bench(rule())
    (firing,) = bench.values(11)
    before = dict(bench.fields)
    (resolved,) = bench.values(1)
    bench.fields = before
    bench.restart()
    assert bench.reconcile(resolved) == []
    (anew,) = bench.values(12)
    assert anew["state"] == "firing" and anew["alert_id"] != firing["alert_id"]


def test_one_alert_of_a_group_fires_at_most() -> None:
    bench = Bench(rule())
    (old,) = bench.values(11)
    bench.forget()
    (new,) = bench.values(12)
    (resolved,) = bench.reconcile(old, new)
    assert (resolved["alert_id"], resolved["reason"]) == (old["alert_id"], "lost")
    assert bench.processor.alert_ids == {new["alert_id"]}


def test_what_is_not_published_yet_differs_for_good_reason() -> None:
    bench = Bench(rule())
    (firing,) = bench.values(11)
    told = {firing["alert_id"]: group_of(firing)}
    bench.restart(rule(severity="info"))  # resolves it
    bench.processor.reconcile(told, 0.0)
    (resolved,) = bench.save()
    assert resolved["reason"] == "rule_changed"
    bench.processor.take(Records(9, [{"v": 12}], [0.0]))
    bench.processor.reconcile(dict.fromkeys(bench.processor.alert_ids), 0.0)
    assert states(bench.save()) == ["firing"]


@given(st.data())
def test_whatever_is_lost_people_are_told_in_the_end(data: st.DataObject) -> None:
    """What people know agrees with the values again, and no two alerts of a group fire."""
    bench = Bench(rule())
    told: dict[str, Alert] = {}
    saved = [dict(bench.fields)]
    for _ in range(data.draw(st.integers(1, 12))):
        alerts = bench.take({"g": data.draw(st.sampled_from("ab")), "v": data.draw(VALUES)})
        saved.append(dict(bench.fields))
        if data.draw(st.booleans()):  # else they are lost with the log
            told |= {alert["alert_id"]: alert for alert in alerts}
        if data.draw(st.booleans()):
            bench.fields = dict(data.draw(st.sampled_from(saved)))
            bench.restart()
        for _ in range(2):
            alerts = bench.reconcile(*told.values())
            told |= {alert["alert_id"]: alert for alert in alerts}
        firing = [alert for alert in told.values() if alert["state"] == "firing"]
        assert {alert["alert_id"] for alert in firing} == bench.processor.alert_ids
        assert len({alert["group"]["g"] for alert in firing}) == len(firing)
    alerts = bench.take({"g": "a", "v": 1}, {"g": "b", "v": 20})
    told |= {alert["alert_id"]: alert for alert in alerts}
    firing = [alert for alert in told.values() if alert["state"] == "firing"]
    assert [alert["group"] for alert in firing] == [{"g": "b"}]


VALUES = st.sampled_from([1, 7, 20])
