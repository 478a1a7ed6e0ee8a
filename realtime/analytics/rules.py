"""How aggregation rules, alert rules and predictors read what they were given. Pure.

Knows how a wrong field is reported, and how sources, filters and paths are read; nothing of what a
rule does with messages.
"""

from __future__ import annotations

from typing import Any

from realtime.filters import Filter, Path, PathError, read_path
from realtime.filters.compiler import FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES


class RuleError(ValueError):
    """A rule is wrong: ``field`` is the argument to blame, ``text`` says why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


def sources_for(target: str) -> tuple[str, ...]:
    """Return the types that a rule may read which publishes to *target*.

    That is any other type: a rule that reads what it publishes could go round in circles.
    """
    return tuple(kind for kind in SUBSCRIPTION_TYPES if kind != target)


def check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise :class:`RuleError` unless *value* is one of the choices."""
    if value not in choices:
        raise RuleError(field, f"expected one of {', '.join(choices)}")


def read_rule_filters(filters: Any) -> Filter:
    """Compile a rule's filters. Raises :class:`RuleError`."""
    try:
        return compile_filters(filters)
    except FilterError as error:
        raise RuleError("filters", str(error).removeprefix("filters: ")) from None


def read_rule_path(field: str, text: Any) -> Path:
    """Return the steps of a path. Raises :class:`RuleError`."""
    if not isinstance(text, str) or not text:
        raise RuleError(field, "expected a path such as payload.origin")
    try:
        return read_path(text)
    except PathError as error:
        raise RuleError(field, str(error)) from None


def plain_number(value: Any) -> Any:
    """Return the integer that a float equals, up to where floats are exact; else *value* itself.

    In JSON 1 and 1.0 are the same number, so groups of these values must be the same group.
    """
    is_whole = type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value
