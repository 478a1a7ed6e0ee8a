"""Failed authentications over all processes: each count on its own, and together."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings

from realtime.auth.limits import Failures, failure_delay
from tests.support.layers import IN_MEMORY, close_layer, layer_of

FREE = 3


async def test_processes_count_together() -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        processes = Failures(), Failures()
        delays = [await process.record("1.2.3.4", 0.0, FREE) for process in processes * 3]
        assert delays == [failure_delay(count, FREE) for count in range(1, 7)]
        assert await processes[0].record("5.6.7.8", 0.0, FREE) == failure_delay(1, FREE)


async def test_a_process_counts_alone_while_nobody_answers(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with layer_of(data_dir):
        failures = Failures()
        delays = [await failures.record("1.2.3.4", 0.0, FREE) for _ in range(6)]
        assert delays == [failure_delay(count, FREE) for count in range(1, 7)]
        assert "counting a failed authentication" in caplog.text
        await close_layer()
