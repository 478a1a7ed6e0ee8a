"""What a client asks to subscribe to: how the ``data`` of ``subscribe`` is read. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from realtime.filters import Filter, Path, canonical, read_path
from realtime.filters.compiler import compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES, ErrorCode, Position, ProtocolError

MAX_REWIND = 1000
# Messages per second.
MIN_RATE, MAX_RATE = 0.001, 1000
# The max_rate of `conflate` alone.
CONFLATE_RATE = 1.0
MAX_BATCH_MS = 10_000
MAX_FIELDS = 64
# Namespace of derived subscription ids (version 5 UUIDs). Changing it changes every id.
SUBSCRIPTION_NAMESPACE = uuid.UUID("6f0a7c1e-54a5-5f8e-9d0b-2f6f3f0c8a11")


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


def read_options(data: Mapping[str, Any]) -> Options | None:
    """Read the options, if there are any; null means absent. Raises ``ValueError``."""
    names = [name for name in _READERS if data.get(name) is not None]
    if not names:
        return None
    values = {name: _READERS[name](data[name]) for name in names}
    if "conflate" in values:
        values.setdefault("max_rate", CONFLATE_RATE)
    options = Options(drops=values.pop("on_overflow", False), **values)
    return None if options == Options() else options


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
    try:
        return read_path(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


_READERS: dict[str, Callable[[Any], Any]] = {
    "max_rate": _read_rate,
    "conflate": lambda value: _read_path("conflate", value),
    "batch_ms": _read_batch,
    "fields": _read_fields,
    "on_overflow": _read_overflow,
}


class StartFrom(NamedTuple):
    """Where a subscription starts: after a position, with the newest few messages, or now."""

    resume: Position | None = None
    rewind: int = 0


class SubscribeRequest(NamedTuple):
    """What a client asks to subscribe to, with its own filters and not those of its token."""

    type: str
    # The filters compiled, and as the client wrote them.
    filters: Filter
    raw_filters: dict[str, Any]
    options: Options | None = None
    start_from: StartFrom = StartFrom()
    # Whether it asks how many of the newest messages its filters match.
    wants_explanation: bool = False

    def derive_id(self) -> str:
        """Return the id of a subscription without a chosen one: equal for equal subscriptions."""
        content = json.dumps([self.type, canonical(self.filters)])
        derived = uuid.uuid5(SUBSCRIPTION_NAMESPACE, content)
        if self.options is not None:
            derived = uuid.uuid5(derived, json.dumps(self.options.describe()))
        return str(derived)


def invalid_type() -> ProtocolError:
    """Return the error for a subscription type that does not exist."""
    expected = ", ".join(SUBSCRIPTION_TYPES)
    return ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, f"type: expected one of {expected}")


def read_subscribe_request(data: Mapping[str, Any]) -> SubscribeRequest:
    """Read the ``data`` of a ``subscribe`` message. Raises :class:`ProtocolError`."""
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in SUBSCRIPTION_TYPES:
        raise invalid_type()
    raw_filters = data.get("filters")
    try:
        return SubscribeRequest(
            kind,
            compile_filters(raw_filters),
            raw_filters or {},
            read_options(data),
            read_start(data.get("resume"), data.get("rewind")),
            _read_flag("explain", data.get("explain")),
        )
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None


def read_start(resume: Any, rewind: Any) -> StartFrom:
    """Read what a client sent as ``resume`` and ``rewind``. Raises ``ValueError``."""
    position = None if resume is None else _read_position(resume)
    if rewind is not None and (type(rewind) is not int or not 0 <= rewind <= MAX_REWIND):
        raise ValueError(f"rewind: expected an integer from 0 to {MAX_REWIND}")
    return StartFrom(position, rewind or 0)


def _read_position(resume: Any) -> Position:
    if not isinstance(resume, dict):
        raise ValueError("resume: expected an object with epoch and offset")
    epoch, offset = resume.get("epoch"), resume.get("offset")
    if not isinstance(epoch, str):
        raise ValueError("resume.epoch: expected a string")
    if type(offset) is not int or offset < 0:
        raise ValueError("resume.offset: expected an integer of 0 or more")
    return Position(epoch, offset)


def _read_flag(name: str, flag: Any) -> bool:
    if flag is None or isinstance(flag, bool):
        return bool(flag)
    raise ValueError(f"{name}: expected true or false")
