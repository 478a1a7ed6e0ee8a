"""A short torture with fixed seeds: nothing is found, but what is planted is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realtime.torture.__main__ import main
from realtime.torture.actors import Consumer
from realtime.torture.checks import Received
from realtime.torture.rounds import play
from realtime.torture.site import Site
from realtime.torture.steps import Step
from tests.support import ROOT

pytestmark = pytest.mark.processes
SETTINGS = "streaming_site.settings"


class Repeater(Consumer):
    """A client that gets its tenth message twice."""

    def take(self, received: Received) -> None:
        super().take(received)
        if len(self.record.received) == 10:
            super().take(received)


class Forgetful(Consumer):
    """A client that misses a message after its tenth."""

    has_forgotten = False

    def take(self, received: Received) -> None:
        if self.has_forgotten or len(self.record.received) < 10:
            super().take(received)
        else:
            self.has_forgotten = True


class FaultySite(Site):
    """Its clients are of both kinds in turn, and a publisher says what is not so."""

    publisher = "tests.torture.liar"

    @staticmethod
    def consumer(*arguments: Any) -> Consumer:  # type: ignore[override]
        kind = Repeater if arguments[2].filters == {} else Forgetful
        return kind(*arguments)


def test_nothing_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seed", "106", "--minutes", "0", "--round", "5", "--settings", SETTINGS]
    assert main(arguments) == 0, capsys.readouterr().out
    assert "1 rounds" in capsys.readouterr().out


async def test_what_is_planted_is_found(tmp_path: Path) -> None:
    steps = [Step(0.5, "kill_publisher", 0, 0.0)]
    outcome = await play(steps, 2.0, lambda path: FaultySite(path, SETTINGS, ROOT))
    text = "\n".join(outcome.complaints)
    assert "client 0: " in text and "came again, or after a later one" in text
    assert "client 1: chapter 0: 1 never came" in text
    assert " was confirmed at Position(" in text


async def test_a_round_that_comes_to_no_end_is_a_finding(tmp_path: Path) -> None:
    class Broken(Site):
        async def cut_store(self, step: Step) -> None:
            raise RuntimeError("broken")

    steps = [Step(0.0, "cut_store", 0, 0.0)]
    outcome = await play(steps, 1.0, lambda path: Broken(path, SETTINGS, ROOT))
    assert "RuntimeError: broken" in "\n".join(outcome.complaints)
