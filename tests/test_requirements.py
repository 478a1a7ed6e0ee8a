"""requirements.lock has a version for everything that requirements*.txt ask for."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support import ROOT

LOCKED = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
}


def requirements() -> list[str]:
    """Return the lines of all requirement files that name a package."""
    lines = [
        line.partition("#")[0].strip()
        for file in sorted(ROOT.glob("requirements*.txt"))
        for line in file.read_text().splitlines()
    ]
    return [line for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("line", requirements())
def test_the_locked_version_is_one_that_is_asked_for(line: str) -> None:
    requirement = Requirement(line)
    locked = LOCKED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(locked, prereleases=True), locked


def test_every_locked_file_has_a_hash() -> None:
    head, *blocks = re.split(r"\n(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text())
    assert head.startswith("#") and len(blocks) >= len(LOCKED)
    assert all("--hash=sha256:" in block for block in blocks)
