"""Alert rules in code: ``realtime.alert_rule(...)`` in the ``streams`` module of an app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from realtime.analytics.alerting.rule import Deviation, Rule, Threshold
from realtime.analytics.alerting.signing import check_secret


class Targets(NamedTuple):
    """Whom to tell of a rule's alerts."""

    emails: Sequence[str] = ()
    webhook_url: str = ""
    webhook_secret: str = ""


class Declared(NamedTuple):
    """A rule and its targets."""

    rule: Rule
    targets: Targets


# By name.
DECLARED: dict[str, Declared] = {}


def alert_rule(
    name: str,
    *,
    source: str,
    value: str,
    above: float | None = None,
    below: float | None = None,
    deviation: float | None = None,
    clear: float | None = None,
    alpha: float = 0.05,
    samples: int = 30,
    least: float = 0.0,
    filters: Mapping[str, Any] | None = None,
    group_by: Sequence[str] | None = None,
    severity: str = "warning",
    for_seconds: float = 0.0,
    resolve_after: float | None = None,
    time: str | None = None,
    emails: Sequence[str] = (),
    webhook_url: str = "",
    webhook_secret: str = "",
) -> Rule:
    """Alert when a value is *above* or *below* a number, or its *deviation* is too large.

    Exactly one of the three. *deviation* is in standard deviations from the exponentially weighted
    mean, in which a new value has the weight *alpha*. *clear* is where it is well again: a value,
    by default the threshold; for a deviation so many standard deviations, by default two thirds of
    it. The rest is as :class:`realtime.analytics.alerting.rule.Rule` says. A rule of the same name
    in the admin takes its place. A webhook needs a secret, as
    :func:`realtime.analytics.alerting.signing.new_secret` makes one.

    Raises:
        ValueError: there is no such rule, or there is one of that name.
    """
    if sum(bound is not None for bound in (above, below, deviation)) != 1:
        raise ValueError(f"alert_rule({name!r}): give one of above, below and deviation")
    condition: Threshold | Deviation
    if above is not None:
        condition = Threshold("above", above, above if clear is None else clear)
    elif below is not None:
        condition = Threshold("below", below, below if clear is None else clear)
    else:
        assert deviation is not None
        clear_factor = deviation * 2 / 3 if clear is None else clear
        condition = Deviation(deviation, clear_factor, alpha, samples, least)
    rule = Rule(
        name,
        source,
        value,
        condition,
        filters=filters or {},
        group_by=group_by,
        severity=severity,
        for_seconds=for_seconds,
        resolve_after=resolve_after,
        time=time,
    )
    if webhook_url:
        check_secret(webhook_secret)
    if name in DECLARED:
        raise ValueError(f"alert_rule({name!r}): there is one of that name")
    DECLARED[name] = Declared(rule, Targets(tuple(emails), webhook_url, webhook_secret))
    return rule
