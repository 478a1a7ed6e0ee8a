"""Imports go down, and what says that it is pure is: for every module of ``realtime``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "realtime"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
# Django's own, which nothing imports.
NO_ROOMS = {"migrations", "static", "templates"}
# A pure module imports nothing that waits, asks a clock or chance, or reaches outside the process.
ACTING = {
    *("asyncio", "autobahn", "channels", "channels_redis", "concurrent", "daphne", "django"),
    *("http.client", "httpx", "logging", "multiprocessing", "os", "psutil", "pydantic", "random"),
    *("pydantic_settings", "redis", "secrets", "select", "selectors", "socket", "ssl"),
    *("subprocess", "tempfile", "threading", "time", "twisted", "urllib.request", "websockets"),
}
# Of modules that a pure one may import, what asks a clock, chance or a file.
ACTING_CALLS = {
    *("datetime.now", "datetime.today", "datetime.utcnow", "date.today"),
    *("uuid.uuid1", "uuid.uuid4", "uuid4", "open", "input", "print", "signal.signal"),
}
# Packages that are pure as a whole run without Django: nothing else is loaded with them.
PURE_PACKAGES = ("filters", "protocol", "hub")


def read_rows() -> list[list[str]]:
    """Return the rooms of docs/architecture.md, row by row, from the top down."""
    [picture] = re.findall(r"<!-- rows -->\n```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    return [re.findall(r"[\w.]+", line) for line in picture.splitlines()]


HEIGHT = {
    room.removesuffix(".py"): -number for number, row in enumerate(read_rows()) for room in row
}


def modules() -> list[str]:
    """Return all modules but the migrations, as ``room.module``."""
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return sorted(
        ".".join(path.with_suffix("").parts) for path in paths if path.parts[0] not in NO_ROOMS
    )


@cache
def parse(module: str) -> ast.Module:
    """Return a module's code."""
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what code imports, wherever it does; imports for type checkers alone aside."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    if isinstance(tree, ast.ImportFrom):
        assert tree.level == 0 and tree.module is not None, "a relative import"
        yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


def room_of(imported: str) -> str:
    """Return the room of a name of this project, ``__init__`` for the package's own names."""
    _, _, inside = imported.partition(".")
    room = inside.split(".")[0]
    return room if room in HEIGHT else "__init__"


def is_pure(module: str) -> bool:
    """Tell whether a module says that it is pure."""
    return bool(re.search(r"\bPure\.", ast.get_docstring(parse(module)) or ""))


def find_module(imported: str) -> str:
    """Return the module, ``room.module``, that an imported name of this project is in or is."""
    path = imported.split(".")[1:]
    while path:
        place = PACKAGE.joinpath(*path)
        if place.with_suffix(".py").exists():
            return ".".join(path)
        if (place / "__init__.py").exists():
            return ".".join([*path, "__init__"])
        path.pop()
    return "__init__"


PURE = [module for module in modules() if is_pure(module)]


def test_every_room_has_a_row() -> None:
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - NO_ROOMS == HEIGHT.keys()


def test_every_room_is_described() -> None:
    described = re.findall(r"^\| `([\w.]+?)/?` \| \S", ARCHITECTURE, re.MULTILINE)
    assert sorted(name.removesuffix(".py") for name in described) == sorted(HEIGHT)


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    own = module.split(".")[0]
    for imported in imports(parse(module)):
        if imported.split(".")[0] == "realtime":
            room = room_of(imported)
            assert room == own or HEIGHT[room] < HEIGHT[own], imported


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_only_what_is_pure(module: str) -> None:
    for imported in imports(parse(module)):
        parts = imported.split(".")
        if parts[0] == "realtime":
            assert is_pure(find_module(imported)), imported
        else:
            assert not {parts[0], ".".join(parts[:2])} & ACTING, imported


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_neither_waits_nor_asks_a_clock(module: str) -> None:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.AsyncFunctionDef):  # a Protocol may declare it
            [line] = node.body
            assert isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant), node.name
        assert not isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ACTING_CALLS, ast.unparse(node)


def test_pure_packages_say_so_in_every_module() -> None:
    assert [module for module in modules() if module.split(".")[0] in PURE_PACKAGES] == [
        module for module in PURE if module.split(".")[0] in PURE_PACKAGES
    ]


@pytest.mark.processes
def test_pure_packages_load_nothing_that_acts() -> None:
    packages = [
        module.removesuffix(".__init__")
        for module in PURE
        if room_of(f"realtime.{module}") in PURE_PACKAGES
    ]
    program = (
        f"import sys, {', '.join(f'realtime.{name}' for name in packages)}; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert not {"asyncio", "django", "pydantic", "redis", "socket", "twisted"} & set(loaded)
    rooms = {room_of(name) for name in loaded if name.startswith("realtime.")}
    assert rooms == set(PURE_PACKAGES)
