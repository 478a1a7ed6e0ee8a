"""Predictors in code: ``@realtime.predictor`` in the ``streams`` module of an app.

Knows nothing of how predictors run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

from realtime.analytics.registry import DefinitionRegistry
from realtime.analytics.rules import RuleError, check_choice, read_rule_filters, sources_for
from realtime.filters import Filter

SOURCES = sources_for("predictions")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# Messages of one batch, and seconds between saves of a model.
BATCH_SIZE = 256
SAVE_EVERY = 5.0

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Predictor:
    """One predictor. ``make`` returns a new model: an object with the method ``predict``, and with
    ``save`` and ``restore`` if ``keeps_state`` is true."""

    name: str
    source: str
    filters: Filter
    version: str
    make: Callable[[], Any]
    keeps_state: bool
    batch_size: int
    save_every: float
    from_start: bool


predictors: DefinitionRegistry[Predictor] = DefinitionRegistry("predictor")


def predictor(
    source: str,
    *,
    filters: dict[str, Any] | None = None,
    name: str | None = None,
    version: str = "1",
    batch_size: int = BATCH_SIZE,
    save_every: float = SAVE_EVERY,
    from_start: bool = False,
) -> Callable[[T], T]:
    """Declare a predictor of messages of the type *source*; returns what it decorates.

    That is a function which takes a list of payloads (dicts) and returns a list as long, with an
    item for each payload: a dict, ``None`` for no prediction, or a list of dicts; or ``None`` for
    no predictions at all. Or a class with such a method ``predict``, made without arguments; with
    ``save() -> bytes`` and ``restore(bytes)`` what it has learnt survives restarts. Each may be
    ``async``. ``manage.py run_predictors`` runs it; docs/analytics.md says what is promised.

    *filters* are those of a subscription. *name* is that of the function or class by default.
    Another *version* begins with a new model. *batch_size* is the most payloads of a call,
    *save_every* the seconds between calls of ``save``. With *from_start* a new predictor begins
    with the oldest retained message, else with those published from then on.

    Raises:
        ValueError: an argument is wrong, or another predictor has the name.
        TypeError: what is decorated is neither a function nor such a class.
    """
    check_choice("source", source, SOURCES)
    compiled = read_rule_filters(filters)
    if not 1 <= batch_size <= 10_000:
        raise RuleError("batch_size", "expected 1 to 10000")
    if not 0 <= save_every <= 3600:
        raise RuleError("save_every", "expected 0 to 3600 seconds")

    def declare(decorated: T) -> T:
        make, keeps_state = _examine(decorated)
        predictor_name = decorated.__name__ if name is None else name
        if not NAME.fullmatch(predictor_name):
            raise RuleError("name", f"{predictor_name!r} is not 1 to 100 of A-Z a-z 0-9 _ . -")
        settings = (version, make, keeps_state, batch_size, save_every, from_start)
        predictors.add(predictor_name, Predictor(predictor_name, source, compiled, *settings))
        return decorated

    return declare


def _examine(decorated: Any) -> tuple[Callable[[], Any], bool]:
    """Return what makes a model, and whether that keeps state."""
    if not isinstance(decorated, type):
        if not callable(decorated):
            raise TypeError(f"{decorated!r}: expected a function or a class")
        return (lambda: SimpleNamespace(predict=decorated)), False
    if not hasattr(decorated, "predict"):
        raise TypeError(f"{decorated.__name__} has no method predict")
    keeps_state = hasattr(decorated, "save")
    if keeps_state != hasattr(decorated, "restore"):
        raise TypeError(f"{decorated.__name__}: of save and restore it needs both or neither")
    return decorated, keeps_state
