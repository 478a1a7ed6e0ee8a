"""What an aggregation rule says, and what it may say. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any

import msgspec

from realtime.analytics.rules import (
    RuleError,
    check_choice,
    read_rule_filters,
    read_rule_path,
    sources_for,
)
from realtime.filters import Filter, Path

SOURCES = sources_for("aggregations")
MAX_GROUP_PATHS = 8
MAX_FUNCTIONS = 32
# In seconds: 31 days.
MAX_SECONDS = 31 * 86_400
# The allowed skew of a rule that names none, unless its lateness is longer.
DEFAULT_SKEW = 60
# Parts of a sliding window: a day by minutes.
MAX_SLIDES = 1440

PLAIN_FUNCTIONS = ("count", "sum", "avg", "min", "max", "distinct", "rate")
# Those that count messages when no path is given.
_WITHOUT_PATH = {"count", "rate"}
_FUNCTION = re.compile(rf"{'|'.join(PLAIN_FUNCTIONS)}|p[1-9][0-9]?(\.[0-9]{{1,3}})?")
EXAMPLE = '[{"name": "flights", "function": "count"}]'
_RULE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

# To be raised when open windows are stored in another form: they are then begun anew.
_STATE_VERSION = 1


@dataclass(frozen=True)
class Function:
    """One figure: its name in the result, what it is, and of which values (``()``: messages)."""

    name: str
    function: str
    path: Path


class _FunctionFields(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")]
    function: str
    path: str | None = None


_SOME_FUNCTIONS = msgspec.Meta(min_length=1, max_length=MAX_FUNCTIONS)


@dataclass(frozen=True)
class AggregationSpec:
    """A valid rule, made by :func:`make_spec`. Times are in seconds."""

    name: str
    source: str
    filters: Filter
    group_by: tuple[Path, ...]
    size: int
    slide: int
    allowed_lateness: int
    # By which a message's own time may lead the log's time of its publishing.
    skew: int
    # Where a message says when it happened; () for the time of publishing.
    time_path: Path
    functions: tuple[Function, ...]
    # Changes with everything that makes open windows mean something else.
    definition: str

    @property
    def slides(self) -> int:
        """How many slides a window has; 1 if it tumbles."""
        return self.size // self.slide


def make_spec(
    name: str,
    *,
    source: str = "events",
    filters: Any = None,
    group_by: Any = (),
    size: Any,
    slide: Any = None,
    allowed_lateness: Any = 0,
    allowed_skew: Any = None,
    time_path: Any = "",
    functions: Any,
) -> AggregationSpec:
    """Return the rule with these fields; without *slide* windows follow one another.

    Without *allowed_skew* it is the lateness, or :data:`DEFAULT_SKEW` if that is longer.
    Raises :class:`~realtime.analytics.rules.RuleError`.
    """
    if not isinstance(name, str) or not _RULE_NAME.fullmatch(name):
        raise RuleError("name", "expected 1 to 64 letters, digits, hyphens and underscores")
    check_choice("source", source, SOURCES)
    compiled = read_rule_filters(filters)
    size = _seconds("size", size, 1)
    slide = _slide(slide, size)
    lateness = _seconds("allowed_lateness", allowed_lateness, 0)
    skew = max(lateness, DEFAULT_SKEW)
    if allowed_skew is not None:
        skew = _seconds("allowed_skew", allowed_skew, 0)
    paths = _group_by(group_by)
    when = () if time_path in ("", None) else read_rule_path("time_path", time_path)
    figures = tuple(_functions(functions))
    contents = [source, filters or {}, paths, size, slide, lateness, when]
    contents.append([[figure.name, figure.function, figure.path] for figure in figures])
    if allowed_skew is not None:  # rules from before there was one go on
        contents.append(skew)
    definition = hashlib.sha256(
        msgspec.json.encode([_STATE_VERSION, *contents], order="deterministic")
    ).hexdigest()[:16]
    return AggregationSpec(
        name, source, compiled, paths, size, slide, lateness, skew, when, figures, definition
    )


# The arguments of :func:`make_spec`.
ARGUMENTS = tuple(signature(make_spec).parameters)


def _seconds(field: str, value: Any, low: int) -> int:
    if type(value) is not int or not low <= value <= MAX_SECONDS:
        raise RuleError(field, f"expected whole seconds, {low} to {MAX_SECONDS}")
    return value


def _slide(value: Any, size: int) -> int:
    if value is None:
        return size
    slide = _seconds("slide", value, 1)
    if size % slide:
        raise RuleError("slide", f"the size, {size}, is no multiple of {slide}")
    if size // slide > MAX_SLIDES:
        raise RuleError("slide", f"a window has more than {MAX_SLIDES} of {slide} s")
    return slide


def _group_by(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list | tuple):
        raise RuleError("group_by", 'expected a list of paths such as ["payload.origin"]')
    if len(value) > MAX_GROUP_PATHS:
        raise RuleError("group_by", f"more than {MAX_GROUP_PATHS} paths")
    paths = tuple(read_rule_path("group_by", item) for item in value)
    if len(set(paths)) != len(paths):
        raise RuleError("group_by", "the same path is there twice")
    return paths


def _functions(value: Any) -> Iterator[Function]:
    """Yield the functions. Their names are checked here, and that the right ones have a path."""
    try:
        fields = msgspec.convert(value, Annotated[list[_FunctionFields], _SOME_FUNCTIONS])
    except msgspec.ValidationError as error:
        raise RuleError("functions", f"{error}; expected a list such as {EXAMPLE}") from None
    names: set[str] = set()
    for figure in fields:
        if figure.name in names:
            raise RuleError("functions", f"the name {figure.name!r} is there twice")
        names.add(figure.name)
        if not _FUNCTION.fullmatch(figure.function):
            choices = f"{', '.join(PLAIN_FUNCTIONS)} and p1 to p99.999"
            raise RuleError("functions", f"{figure.name}: function is none of {choices}")
        if not figure.path and figure.function not in _WITHOUT_PATH:
            raise RuleError("functions", f"{figure.name}: {figure.function} needs a path")
        path = read_rule_path("functions", figure.path) if figure.path else ()
        yield Function(figure.name, figure.function, path)
