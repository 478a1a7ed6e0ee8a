"""The pytest plugin as the projects use it that are built on this."""

from __future__ import annotations

import asyncio
import os
import re
import time
from textwrap import dedent

import pytest
from django.utils import timezone

from realtime import publish
from realtime.testing import Client, FakeClock, LiveServer
from tests.support import ROOT

pytest_plugins = ["pytester"]


async def test_what_this_process_publishes_reaches_the_server(realtime_client: Client) -> None:
    await realtime_client.subscribe("events", {"carrier": "UA"})
    await asyncio.to_thread(publish, "events", {"carrier": "AA"})
    position = await asyncio.to_thread(publish, "events", {"carrier": "UA", "flight": 1})
    assert position is not None
    assert await realtime_client.assert_data("events", {"carrier": "UA", "flight": 1})
    await realtime_client.assert_silent(after=position)
    other = await asyncio.to_thread(publish, "events", {"carrier": "AA"})
    await realtime_client.assert_silent(after=other)


async def test_silence_that_is_broken_later(
    realtime_server: LiveServer, realtime_client: Client
) -> None:
    await realtime_client.subscribe("events")
    [position] = realtime_server.publish("events", {"n": 1})
    with pytest.raises(AssertionError, match="'type': 'data'"):
        await realtime_client.assert_silent(after=position)


async def test_errors_and_ends(realtime_server: LiveServer, realtime_client: Client) -> None:
    await realtime_client.send({"type": "subscribe", "data": {"type": "nothing"}})
    await realtime_client.assert_error("invalid_subscription")
    token = realtime_server.new_token(name="ends", types=["events"])
    async with realtime_server.connect(token) as client:
        realtime_server.manage("revoke_token", "ends")
        await client.assert_closed(1008, "token revoked")
        with pytest.raises(AssertionError, match="closed with 1008: token revoked"):
            await client.assert_closed(1000)
    async with realtime_server.connect() as client:
        for _ in range(3):
            await client.send({"type": "auth", "data": {"token": "wrong"}})
        await client.assert_closed(1008, "authentication failed")


class TestFakeClock:
    """Time that passes when it is told to, or when everyone waits."""

    def test_it_stands_for_this_processs_clock(self, fake_clock: FakeClock) -> None:
        before = time.time(), time.monotonic(), timezone.now()
        fake_clock.advance(3600)
        assert time.time() - before[0] == 3600
        assert time.monotonic() - before[1] == 3600
        assert (timezone.now() - before[2]).total_seconds() == 3600

    def test_nobody_waits(self, fake_clock: FakeClock) -> None:
        order = []

        async def wait(seconds: float) -> float:
            await asyncio.sleep(seconds)
            order.append(seconds)
            return time.monotonic()

        async def main() -> list[float]:
            return await asyncio.gather(*(wait(hours * 3600) for hours in (5, 1, 24)))

        assert fake_clock.run(main()) == pytest.approx([5 * 3600, 3600, 24 * 3600])
        assert order == [3600, 5 * 3600, 24 * 3600]

    def test_a_timeout(self, fake_clock: FakeClock) -> None:
        async def main() -> None:
            async with asyncio.timeout(60):
                await asyncio.sleep(61)

        with pytest.raises(TimeoutError):
            fake_clock.run(main())

    def test_who_waits_for_nothing_is_told(self, fake_clock: FakeClock) -> None:
        async def main() -> None:
            await asyncio.get_running_loop().create_future()

        with pytest.raises(AssertionError, match="everyone waits for someone else"):
            fake_clock.run(main())

    def test_it_gives_the_clock_back(self, fake_clock: FakeClock) -> None:
        assert time.time() == fake_clock.time()

    def test_afterwards_it_is_now(self) -> None:
        assert time.time() > 1_790_000_000


def test_in_a_project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation's examples in a folder of their own, in a developer's environment."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("STREAMING_DATA_DIR", str(pytester.path / "precious"))
    monkeypatch.setenv("STREAMING_WEBSOCKET__REQUIRE_AUTH", "false")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makefile(
        ".toml",
        pyproject=dedent("""
            [tool.pytest.ini_options]
            DJANGO_SETTINGS_MODULE = "streaming_site.settings"
            asyncio_mode = "auto"
            addopts = "-p realtime.testing.plugin"
        """),
    )
    pytester.makepyfile(manage=(ROOT / "manage.py").read_text())
    text = (ROOT / "docs/testing.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    pytester.makepyfile(**{f"test_{number}": text for number, text in enumerate(examples)})
    pytester.makepyfile(
        """
        import asyncio
        from realtime import publish

        async def test_that_fails(realtime_client):
            await realtime_client.subscribe("events")
            await asyncio.to_thread(publish, "events", {"n": 1})
            await realtime_client.assert_data("events", {"n": 2})

        async def test_authentication_is_required(realtime_server):
            async with realtime_server.connect() as client:
                await client.send({"type": "subscribe", "data": {"type": "events"}})
                await client.assert_error("auth_required")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*received {'n': 1}*"])
    assert not (pytester.path / "precious").exists()
    assert os.environ["STREAMING_DATA_DIR"].endswith("precious")


def test_every_fixture_and_assertion_is_documented() -> None:
    text = (ROOT / "docs/testing.md").read_text()
    fixtures = re.findall(
        r"^(?:async )?def (\w+)", (ROOT / "realtime/testing/plugin.py").read_text(), re.M
    )
    for name in [*fixtures, *(name for name in vars(Client) if name.startswith("assert_"))]:
        assert f"`{name}" in text or name.startswith("pytest_"), name
