"""The core decides and never waits: no framework, event loop, clock, chance or socket."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import ROOT

CORE = (
    "protocol.messages",
    "protocol.addresses",
    "filters.clauses",
    "sessions.drain",
    "hub.groups",
    "filters.index",
    "filters.compiler",
    "protocol.frames",
    "hub.index",
    "auth.limits",
    "publishing.ndjson",
    "hub.message",
    "protocol.origins",
    "filters.prefixes",
    "filters.intervals",
    "hub.ordering",
    "hub.shaping",
    "monitoring.counters",
    "protocol.options",
    "protocol.subscribe",
)
CORE_NAMES = {"filters", "protocol", *CORE}
FORBIDDEN = {
    "asyncio",
    "autobahn",
    "channels",
    "channels_redis",
    "concurrent",
    "daphne",
    "django",
    "logging",
    "os",
    "pydantic",
    "pydantic_settings",
    "random",
    "redis",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "twisted",
    "urllib.request",
    "websockets",
}
# `random`, `threading` and the like come with the standard library's own modules.
NEVER_LOADED = FORBIDDEN - {"logging", "os", "random", "signal", "threading", "time"}
NOT_PURE_NAMES = {("datetime", "now"), ("datetime", "utcnow"), ("uuid", "uuid4"), ("uuid", "uuid1")}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, wherever it does; imports for type checkers alone aside."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    if isinstance(tree, ast.ImportFrom):
        assert tree.level == 0 and tree.module is not None
        yield tree.module
        yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
    for child in ast.iter_child_nodes(tree):
        yield from imported(child)


def parents(name: str) -> set[str]:
    """Return a dotted name and everything it is in."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_imports_nothing_that_acts(module: str) -> None:
    tree = ast.parse((ROOT / "realtime" / f"{module.replace('.', '/')}.py").read_text())
    for name in imported(tree):
        assert not parents(name) & FORBIDDEN, name
        if name.startswith("realtime"):
            assert parents(name.removeprefix("realtime.")) & CORE_NAMES, name
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_asks_no_clock_and_no_chance(module: str) -> None:
    tree = ast.parse((ROOT / "realtime" / f"{module.replace('.', '/')}.py").read_text())
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not used & NOT_PURE_NAMES


# realtime.publishing is publish() too, which is no core.
@pytest.mark.parametrize("module", [name for name in CORE if name != "publishing.ndjson"])
def test_a_core_module_runs_alone(module: str) -> None:
    program = f"import realtime.{module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & NEVER_LOADED
