"""Finds what applications define in code: in a module ``streams`` of any installed app.

Knows how such modules are found and that names are unique, not what they define.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from django.core.management.base import CommandError, CommandParser
from django.utils.module_loading import autodiscover_modules

MODULE = "streams"


class Named(Protocol):
    """A definition: its name, and the module that has it."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The definitions of one kind, by name; ``kind`` is the word for one of them."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._known: dict[str, T] = {}

    def add(self, definition: T) -> None:
        """Take a definition. Raises ``ValueError`` if there is one of that name."""
        name = definition.name
        if name in self._known:
            modules = f"{self._known[name].module} and {definition.module}"
            raise ValueError(f"there are two {self._kind}s named {name!r}: in {modules}")
        self._known[name] = definition

    def __iter__(self) -> Iterator[T]:
        return iter(self._known.values())

    def select(self, names: Iterable[str]) -> list[T]:
        """Return those of these names, or all if none is given; by name.

        Raises:
            CommandError: there is none of some name, or none at all.
        """
        wanted = set(names) or self._known.keys()
        unknown = sorted(wanted - self._known.keys())
        known = ", ".join(sorted(self._known)) or "none"
        if unknown:
            raise CommandError(f"no {self._kind} is named {unknown[0]!r} (there are: {known})")
        if not wanted:
            raise CommandError(
                f"there are no {self._kind}s in the {MODULE}.py of any installed app"
            )
        return [self._known[name] for name in sorted(wanted)]


def add_module_argument(parser: CommandParser) -> None:
    """Declare the option whose value :func:`discover` takes."""
    parser.add_argument(
        "--module", help=f"a module with definitions, in place of the apps' {MODULE}.py"
    )


def discover(module: str | None = None) -> None:
    """Import the module ``streams`` of each installed app, or *module* in their place.

    Raises:
        CommandError: one cannot be imported; the message is one line.
    """
    try:
        if module is None:
            autodiscover_modules(MODULE)
        else:
            import_module(module)
    except Exception as error:
        raise CommandError(_explain(error, module)) from error


def _explain(error: Exception, module: str | None) -> str:
    """Say where a module that cannot be imported goes wrong, and how."""
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    name = f"{(module or MODULE).rpartition('.')[2]}.py"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if Path(frame.filename).name == name]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}: {what}" if theirs else what
