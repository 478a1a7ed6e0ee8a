"""The rules and predictors that applications define in code, and those that administrators add.

Code is in a module ``streams`` of any installed app. A row of the admin takes the place of code of
the same name, also when it is turned off.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from django.core.management.base import CommandError
from django.utils.module_loading import autodiscover_modules

from realtime.analytics.rules import RuleError

logger = logging.getLogger(__name__)

MODULE = "streams"


T = TypeVar("T")


class DefinitionRegistry(Generic[T]):
    """The definitions of one sort in code, by name; ``noun`` is the word for one of them."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._in_code: dict[str, T] = {}
        # What has been logged about rows that are wrong, to log it once.
        self._complaints: set[str] = set()

    def add(self, name: str, definition: T) -> None:
        """Add a definition. Raises :class:`RuleError` if there is another one of that name."""
        if self._in_code.setdefault(name, definition) != definition:
            raise RuleError("name", f"there is another {self._noun} named {name!r}")

    def get(self, name: str) -> T | None:
        """Return the definition of that name."""
        return self._in_code.get(name)

    def __iter__(self) -> Iterator[T]:
        return iter(self._in_code.values())

    def select(self, names: Iterable[str]) -> list[T]:
        """Return the definitions of these names, or all if there are no names; sorted by name.

        Raises ``CommandError`` if there is no definition of some name, or none at all.
        """
        chosen = set(names) or self._in_code.keys()
        unknown = sorted(chosen - self._in_code.keys())
        if unknown:
            names = ", ".join(sorted(self._in_code)) or "none"
            raise CommandError(f"no {self._noun} is named {unknown[0]!r} (there are: {names})")
        if not chosen:
            where = f"the {MODULE}.py of any installed app"
            raise CommandError(f"there are no {self._noun}s in {where}")
        return [self._in_code[name] for name in sorted(chosen)]

    def in_force(self, rows: Iterable[Any]) -> dict[str, T]:
        """Return what is to run, by name: code, and in its place what ``spec()`` of rows returns.

        A row that is not ``enabled`` is left out, and one that is wrong, which is logged once.
        """
        definitions = dict(self._in_code)
        for row in rows:
            definitions.pop(row.name, None)
            if row.enabled:
                try:
                    definitions[row.name] = row.spec()
                except RuleError as error:
                    text = f"the {self._noun} {row.name} of the admin is wrong: {error}"
                    if text not in self._complaints:
                        self._complaints.add(text)
                        logger.warning(text)
        return definitions


def discover(module: str | None = None) -> None:
    """Import the module ``streams`` of each installed app, or *module* in their place.

    Raises ``CommandError``, one line, if a module cannot be imported.
    """
    try:
        if module is None:
            autodiscover_modules(MODULE)
        else:
            import_module(module)
    except Exception as error:
        raise CommandError(_explain(error, module)) from error


def _explain(error: Exception, module: str | None) -> str:
    """Return the file and line at which a module cannot be imported, and why, in one line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    reason = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    name = f"{(module or MODULE).rpartition('.')[2]}.py"
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if Path(frame.filename).name == name]
    return f"{places[-1].filename}:{places[-1].lineno}: {reason}" if places else reason
