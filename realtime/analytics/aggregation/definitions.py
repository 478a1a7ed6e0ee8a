"""The aggregation rules that there are: in code, and of the admin."""

from __future__ import annotations

from typing import Any

from realtime.analytics.aggregation.processor import AggregationProcessor, processor_name
from realtime.analytics.aggregation.rule import AggregationSpec, make_spec
from realtime.analytics.registry import DefinitionRegistry

aggregation_rules: DefinitionRegistry[AggregationSpec] = DefinitionRegistry("aggregation rule")


def aggregation_rule(
    name: str,
    *,
    source: str = "events",
    filters: dict[str, Any] | None = None,
    group_by: list[str] | tuple[str, ...] = (),
    size: int,
    slide: int | None = None,
    allowed_lateness: int = 0,
    allowed_skew: int | None = None,
    time_path: str = "",
    functions: list[dict[str, str]],
) -> AggregationSpec:
    """Define a rule that ``manage.py run_aggregations`` runs; in an app's ``streams.py``.

    Times are in seconds; see docs/analytics.md for the rest. Raises
    :class:`~realtime.analytics.rules.RuleError`, a ``ValueError``.
    """
    rule = make_spec(**locals())  # all arguments
    aggregation_rules.add(name, rule)
    return rule


def load_rules() -> list[AggregationSpec]:
    """Return all rules that are to run."""
    # Here, as rules may be defined before Django has loaded its models.
    from realtime.analytics.aggregation.models import AggregationRule

    return list(aggregation_rules.in_force(AggregationRule.objects.all()).values())


def load_paused() -> list[str]:
    """Return the processors of the rules that are turned off, by name."""
    from realtime.analytics.aggregation.models import AggregationRule

    names = AggregationRule.objects.filter(enabled=False).values_list("name", flat=True)
    return [processor_name(name) for name in names]


def load_processors() -> list[AggregationProcessor]:
    """Return a processor of each rule, for a runner."""
    return [AggregationProcessor(rule) for rule in load_rules()]
