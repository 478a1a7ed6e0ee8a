"""For the tests of what is built on this: a real server, a client that asserts, a clock.

Name the plugin in pyproject.toml, and tests have its fixtures (docs/testing.md)::

    [tool.pytest.ini_options]
    addopts = "-p realtime.testing.plugin"

    async def test_departures(realtime_client):
        await realtime_client.subscribe("events", {"event_type": "departure"})
        await asyncio.to_thread(publish, "events", {"event_type": "departure"})
        await realtime_client.assert_data("events", {"event_type": "departure"})
"""

from realtime.testing.client import Client, connect
from realtime.testing.clock import FakeClock
from realtime.testing.server import LiveServer

__all__ = ["Client", "FakeClock", "LiveServer", "connect"]
