"""Which aggregation rules there are: those in code, and those that administrators keep."""

from __future__ import annotations

import logging
from typing import Any

from realtime.analytics.aggregation.processor import RuleProcessor
from realtime.analytics.aggregation.rule import Rule, RuleError, make_rule

logger = logging.getLogger(__name__)

_in_code: dict[str, Rule] = {}
# What has been said of rows that are no rules, so as to say it once.
_complaints: set[str] = set()


def aggregation_rule(
    name: str,
    *,
    source: str = "events",
    filters: dict[str, Any] | None = None,
    group_by: list[str] | tuple[str, ...] = (),
    size: int,
    slide: int | None = None,
    allowed_lateness: int = 0,
    time_path: str = "",
    functions: list[dict[str, str]],
) -> Rule:
    """Define a rule that ``manage.py run_aggregations`` runs; in an app's ``streams.py``.

    Times are in seconds; see docs/analytics.md for the rest. Raises
    :class:`~realtime.analytics.aggregation.rule.RuleError`, a ``ValueError``.
    """
    rule = make_rule(
        name,
        source=source,
        filters=filters,
        group_by=group_by,
        size=size,
        slide=slide,
        allowed_lateness=allowed_lateness,
        time_path=time_path,
        functions=functions,
    )
    if _in_code.setdefault(name, rule) != rule:
        raise RuleError("name", f"there is another rule {name!r}")
    return rule


def rules_in_code() -> dict[str, Rule]:
    """Return the rules of the modules that have been discovered, by name."""
    return dict(_in_code)


def load_rules() -> list[Rule]:
    """Return all rules that are to run: a row takes the place of the code's rule of its name.

    A row that is no rule is told of once and left out.
    """
    from realtime.analytics.aggregation.models import AggregationRule

    found = rules_in_code()
    for row in AggregationRule.objects.all():
        found.pop(row.name, None)
        if row.enabled:
            try:
                found[row.name] = row.to_rule()
            except RuleError as error:
                _complain(f"the rule {row.name} of the admin does not run: {error}")
    return list(found.values())


def _complain(text: str) -> None:
    if text not in _complaints:
        _complaints.add(text)
        logger.warning(text)


def load_processors() -> list[RuleProcessor]:
    """Return a processor of each rule, for a runner."""
    return [RuleProcessor(rule) for rule in load_rules()]
