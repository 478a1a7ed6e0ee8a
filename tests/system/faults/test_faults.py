"""Whatever breaks, every client has every message once and in order, or was told.

``FAULT_ROUNDS=20 pytest tests/system/faults`` injects each fault so often (default: once).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.faults.scenarios import SCENARIOS
from tests.system.faults.scene import Scenario, play

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
async def test_nothing_is_lost_or_repeated(scenario: Scenario, tmp_path: Path) -> None:
    outcome = await play(scenario, tmp_path, ROUNDS, seed=ROUNDS)
    assert outcome.complaints == []
    assert (outcome.lost, outcome.repeated) == (0, 0)
    assert outcome.published > outcome.faults
    if scenario.loses_the_log:
        assert outcome.told >= 2 * outcome.faults
    else:
        assert outcome.told == 0
