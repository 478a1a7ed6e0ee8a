"""The options of a subscription: limits on how much of what matches is sent, and when. Pure.

Knows their rules (docs/protocol.md); how they are carried out is in :mod:`realtime.hub.shaping`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from realtime.filters import MAX_PATH_CHARACTERS, MAX_STEPS, Path

# Messages per second.
MIN_RATE, MAX_RATE = 0.001, 1000
# The max_rate of `conflate` alone.
CONFLATE_RATE = 1.0
MAX_BATCH_MS = 10_000
MAX_FIELDS = 64


class Options(NamedTuple):
    """The options of a subscription in one form: equal options are equal tuples."""

    max_rate: float | None = None
    conflate: Path | None = None
    batch_ms: int | None = None
    fields: tuple[Path, ...] | None = None
    drops: bool = False

    @property
    def supersedes(self) -> bool:
        """Whether a newer message may take the place of an older one."""
        return self.max_rate is not None

    def describe(self) -> dict[str, Any]:
        """Return them as a client writes them."""
        options = {
            "max_rate": self.max_rate,
            "conflate": None if self.conflate is None else ".".join(self.conflate),
            "batch_ms": self.batch_ms,
            "fields": None if self.fields is None else [".".join(path) for path in self.fields],
            "on_overflow": "drop" if self.drops else None,
        }
        return {name: value for name, value in options.items() if value is not None}


PLAIN = Options()


def read_options(data: Mapping[str, Any]) -> Options | None:
    """Read the options in the ``data`` of ``subscribe``; ``None`` for none. Raises ``ValueError``.

    null means the same as absent.
    """
    names = [name for name in _READERS if data.get(name) is not None]
    if not names:
        return None
    values = {name: _READERS[name](data[name]) for name in names}
    if "conflate" in values:
        values.setdefault("max_rate", CONFLATE_RATE)
    drops = values.pop("on_overflow", False)
    options = Options(**values, drops=drops)
    return None if options == PLAIN else options


def _read_rate(value: Any) -> float:
    if type(value) not in (int, float) or not MIN_RATE <= value <= MAX_RATE:
        raise ValueError(f"max_rate: expected a number from {MIN_RATE} to {MAX_RATE}")
    return float(value)


def _read_batch(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_BATCH_MS:
        raise ValueError(f"batch_ms: expected an integer from 1 to {MAX_BATCH_MS}")
    return value


def _read_fields(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FIELDS:
        raise ValueError(f"fields: expected an array of 1 to {MAX_FIELDS} paths")
    return tuple(sorted({_read_path("fields", path) for path in value}))


def _read_overflow(value: Any) -> bool:
    if value not in ("close", "drop"):
        raise ValueError('on_overflow: expected "close" or "drop"')
    return bool(value == "drop")


def _read_path(name: str, text: Any) -> Path:
    """Return the steps of a path. Raises ``ValueError`` that names the option."""
    if not isinstance(text, str):
        raise ValueError(f"{name}: a path is not a string")
    if len(text) > MAX_PATH_CHARACTERS:
        raise ValueError(
            f"{name}: the path {text[:32]!r}... has more than {MAX_PATH_CHARACTERS} characters"
        )
    steps = tuple(text.split("."))
    if len(steps) > MAX_STEPS:
        raise ValueError(f"{name}: the path {text!r} has more than {MAX_STEPS} steps")
    if "" in steps:
        raise ValueError(f"{name}: the path {text!r} has an empty step")
    return steps


_READERS: dict[str, Callable[[Any], Any]] = {
    "max_rate": _read_rate,
    "conflate": lambda value: _read_path("conflate", value),
    "batch_ms": _read_batch,
    "fields": _read_fields,
    "on_overflow": _read_overflow,
}
