"""``manage.py replay_demo`` in this process: outages, and the rounds that a file remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from realtime.demo.replay import read_week
from realtime.management.commands import replay_demo
from realtime.management.commands.replay_demo import numbered_rounds
from realtime.publishing.publication import RETRY_INTERVAL, PublishError

Payload = dict[str, Any]


class Outages:
    """Stands for the layer: takes what is published, but for the calls that are to fail.

    It stops the command after so many calls, and its sleeps take no time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int, *failing: int) -> None:
        self._calls = range(calls)
        self._failing = set(failing)
        self._number = 0
        self.published: list[tuple[str, list[Payload]]] = []
        self.sleeps: list[float] = []
        self.now = 0.0
        monkeypatch.setattr(replay_demo, "publish_many", self._publish)
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(replay_demo.Command, "sleep", lambda _, seconds: self._sleep(seconds))
        monkeypatch.setattr(replay_demo.Command, "is_stopped", lambda _: self.is_over)

    @property
    def is_over(self) -> bool:
        return self._number not in self._calls

    def _publish(self, kind: str, payloads: list[Payload]) -> None:
        number, self._number = self._number, self._number + 1
        if number in self._failing:
            raise PublishError("no\nanswer")
        self.published.append((kind, payloads))

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def of(self, kind: str) -> list[Payload]:
        """Return the payloads of a type."""
        return [
            payload for type_, payloads in self.published if type_ == kind for payload in payloads
        ]


@pytest.fixture(autouse=True)
def a_directory_of_its_own(settings: Any, tmp_path: Path) -> None:
    """Where the command remembers its rounds."""
    settings.DATA_DIR = tmp_path


def test_an_outage_loses_doubles_and_reorders_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outages = Outages(monkeypatch, 200, 1, *range(20, 25), *range(30, 150, 3))
    call_command("replay_demo")
    whole = [record.raw | {"round": 1} for record in read_week() if "event_type" in record.raw]
    events = outages.of("events")
    assert len(events) > 100
    assert events == whole[: len(events)]
    assert outages.sleeps.count(RETRY_INTERVAL) == 46


def test_an_outage_is_told_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Outages(monkeypatch, 10, 1, 2, 3, 5)
    call_command("replay_demo")
    failing = "replay_demo: not published, trying again: no answer"
    working = "replay_demo: publishing works again"
    assert capsys.readouterr().err.splitlines() == [
        *[failing, working] * 2,
        "replay_demo: stopped",
    ]


def test_stopping_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    outages = Outages(monkeypatch, 10, *range(1, 100))
    call_command("replay_demo")
    assert outages.sleeps.count(RETRY_INTERVAL) == 9
    assert len(outages.published) == 1


def test_a_layer_that_was_never_there_is_given_up_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Outages(monkeypatch, 10, 0)
    with pytest.raises(CommandError, match=r"^replay_demo ended: no answer$"):
        call_command("replay_demo")


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf", "100001", "fast"])
def test_a_wrong_speed_is_refused(speed: str) -> None:
    with pytest.raises(CommandError, match="expected a number above 0, at most 100000"):
        call_command("replay_demo", "--speed", speed)


def test_rounds_go_on_where_the_last_replay_was(tmp_path: Path) -> None:
    path = tmp_path / "rounds"
    first, second = numbered_rounds(path), numbered_rounds(path)
    assert [next(first), next(first), next(second), next(first)] == [1, 2, 3, 4]
    path.write_text("spoilt")
    assert next(first) == 1
    path.write_text("600")
    assert next(first) == 1
    path.unlink()
    path.mkdir()  # which can neither be read nor written
    assert [next(first), next(first)] == [1, 1]
