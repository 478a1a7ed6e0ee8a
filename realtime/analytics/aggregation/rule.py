"""What an aggregation rule says, and what it may say. Pure.

Knows no messages, windows or database.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from realtime.filters import (
    MAX_PATH_CHARACTERS,
    MAX_STEPS,
    Filter,
    FilterError,
    Path,
    compile_filters,
)
from realtime.protocol import SUBSCRIPTION_TYPES

# Not of aggregations: a rule could read what it publishes.
SOURCES = tuple(kind for kind in SUBSCRIPTION_TYPES if kind != "aggregations")

MAX_GROUP_PATHS = 8
MAX_FUNCTIONS = 32
# In seconds: 31 days.
MAX_SECONDS = 31 * 86_400
# Parts of a sliding window: a day by minutes.
MAX_SLIDES = 1440

PLAIN_FUNCTIONS = ("count", "sum", "avg", "min", "max", "distinct", "rate")
# Those that count messages when no path is given.
_WITHOUT_PATH = {"count", "rate"}
_PERCENTILE = re.compile(r"p([1-9][0-9]?(?:\.[0-9]{1,3})?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_RULE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

# Raised when what is kept of open windows is no longer read as before.
_STATE_VERSION = 1


class RuleError(ValueError):
    """A rule is wrong; ``field`` is the argument of :func:`make_rule` that is to blame."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


@dataclass(frozen=True)
class Function:
    """One figure: its name in the result, what it is, and of which values (``()``: messages)."""

    name: str
    function: str
    path: Path


@dataclass(frozen=True)
class Rule:
    """A valid rule; made by :func:`make_rule`. Times are in seconds."""

    name: str
    source: str
    filters: Filter
    group_by: tuple[Path, ...]
    size: int
    slide: int
    allowed_lateness: int
    # Where a message says when it happened; () for the time of publishing.
    time_path: Path
    functions: tuple[Function, ...]
    # Changes with everything that makes open windows mean something else.
    definition: str

    @property
    def slides(self) -> int:
        """How many slides a window has; 1 if it tumbles."""
        return self.size // self.slide


def make_rule(
    name: str,
    *,
    source: str = "events",
    filters: Any = None,
    group_by: Any = (),
    size: Any,
    slide: Any = None,
    allowed_lateness: Any = 0,
    time_path: Any = "",
    functions: Any,
) -> Rule:
    """Return the rule that these say; without *slide* windows tumble. Raises :class:`RuleError`."""
    if not isinstance(name, str) or not _RULE_NAME.fullmatch(name):
        raise RuleError("name", "expected 1 to 64 letters, digits, hyphens and underscores")
    if source not in SOURCES:
        raise RuleError("source", f"expected one of {', '.join(SOURCES)}")
    try:
        compiled = compile_filters(filters)
    except FilterError as error:
        raise RuleError("filters", str(error).removeprefix("filters: ")) from None
    size = _seconds("size", size, 1)
    slide = _slide(slide, size)
    lateness = _seconds("allowed_lateness", allowed_lateness, 0)
    paths = _group_by(group_by)
    when = () if time_path in ("", None) else _path("time_path", time_path)
    made = tuple(_functions(functions))
    said = [source, filters or {}, paths, size, slide, lateness, when, [_said(f) for f in made]]
    definition = hashlib.sha256(
        msgspec.json.encode([_STATE_VERSION, *said], order="deterministic")
    ).hexdigest()[:16]
    return Rule(name, source, compiled, paths, size, slide, lateness, when, made, definition)


def _said(function: Function) -> list[Any]:
    return [function.name, function.function, function.path]


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


def _path(field: str, text: Any) -> Path:
    if not isinstance(text, str):
        raise RuleError(field, "expected a path such as payload.origin")
    if len(text) > MAX_PATH_CHARACTERS:
        raise RuleError(field, f"a path has more than {MAX_PATH_CHARACTERS} characters")
    steps = tuple(text.split("."))
    if "" in steps:
        raise RuleError(field, f"the path {text!r} has an empty step")
    if len(steps) > MAX_STEPS:
        raise RuleError(field, f"the path {text!r} has more than {MAX_STEPS} steps")
    return steps


def _group_by(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list | tuple):
        raise RuleError("group_by", 'expected a list of paths such as ["payload.origin"]')
    if len(value) > MAX_GROUP_PATHS:
        raise RuleError("group_by", f"more than {MAX_GROUP_PATHS} paths")
    paths = tuple(_path("group_by", item) for item in value)
    if len(set(paths)) != len(paths):
        raise RuleError("group_by", "a path is there twice")
    return paths


def _functions(value: Any) -> Iterator[Function]:
    if not isinstance(value, list | tuple) or not value:
        raise RuleError("functions", 'expected a list such as [{"name": "n", "function": "count"}]')
    if len(value) > MAX_FUNCTIONS:
        raise RuleError("functions", f"more than {MAX_FUNCTIONS}")
    names: set[str] = set()
    for number, item in enumerate(value, 1):
        function = _function(f"number {number}", item)
        if function.name in names:
            raise RuleError("functions", f"the name {function.name!r} is there twice")
        names.add(function.name)
        yield function


def _function(which: str, item: Any) -> Function:
    if not isinstance(item, dict):
        raise RuleError("functions", f"{which} is no object")
    unknown = sorted(map(str, item.keys() - {"name", "function", "path"}))
    if unknown:
        raise RuleError("functions", f"{which} has the unknown key {unknown[0]!r}")
    name, function = item.get("name"), item.get("function")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RuleError(
            "functions", f"{which}: its name is no letter followed by letters, digits, - and _"
        )
    if not _is_function(function):
        known = ", ".join(PLAIN_FUNCTIONS)
        raise RuleError("functions", f"{name}: function is none of {known} and p1 to p99.999")
    assert isinstance(function, str)
    path = item.get("path")
    if path in ("", None):
        if function not in _WITHOUT_PATH:
            raise RuleError("functions", f"{name}: {function} needs a path")
        return Function(name, function, ())
    try:
        return Function(name, function, _path("functions", path))
    except RuleError as error:
        raise RuleError("functions", f"{name}: {error.text}") from None


def _is_function(value: Any) -> bool:
    return isinstance(value, str) and (
        value in PLAIN_FUNCTIONS or _PERCENTILE.fullmatch(value) is not None
    )


def path_text(path: Sequence[str]) -> str:
    """Write a path as it was given."""
    return ".".join(path)
