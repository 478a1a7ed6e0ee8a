"""Alert rules in code: ``realtime.alert_rule(...)`` in the ``streams`` module of an app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from realtime.analytics.alerting.rule import (
    ABOVE,
    BELOW,
    DEVIATION,
    AlertSpec,
    Targets,
    make_condition,
)
from realtime.analytics.alerting.signing import check_secret
from realtime.analytics.registry import DefinitionRegistry

alert_rules: DefinitionRegistry[AlertSpec] = DefinitionRegistry("alert rule")


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
) -> AlertSpec:
    """Alert when a value is *above* or *below* a number, or its *deviation* is too large.

    Exactly one of the three. *deviation* is in standard deviations from the exponentially weighted
    mean, in which a new value has the weight *alpha*. *clear* is where it is well again: a value,
    by default the threshold; for a deviation so many standard deviations, by default two thirds of
    it. The other arguments are as :class:`~realtime.analytics.alerting.rule.AlertSpec` says. A rule
    of the same name in the admin takes its place. A webhook needs a secret, as
    :func:`realtime.analytics.alerting.signing.new_secret` makes one. Raises ``ValueError`` if an
    argument is wrong, or there is another rule of that name.
    """
    bounds = {ABOVE: above, BELOW: below, DEVIATION: deviation}
    chosen = [(direction, bound) for direction, bound in bounds.items() if bound is not None]
    if len(chosen) != 1:
        raise ValueError(f"alert_rule({name!r}): give one of above, below and deviation")
    [(direction, bound)] = chosen
    if webhook_url:
        check_secret(webhook_secret)
    condition = make_condition(direction, bound, clear, alpha=alpha, samples=samples, least=least)
    targets = Targets(tuple(emails), webhook_url, webhook_secret)
    values = (name, source, value, condition, filters or {}, group_by)
    rule = AlertSpec(*values, severity, for_seconds, resolve_after, time, targets=targets)
    alert_rules.add(name, rule)
    return rule
