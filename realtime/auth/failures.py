"""Failed authentications of each address, and how long the next answer to it waits.

Counted over all processes, so that guessing at many servers is no faster than at one. While the
cluster does not answer, this process counts alone.
"""

from __future__ import annotations

import logging

from realtime.auth.limits import WINDOW, FailureCounts, failure_delay
from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable

logger = logging.getLogger(__name__)


class Failures:
    """The failures of each address. One for each event loop."""

    def __init__(self) -> None:
        self._here = FailureCounts()

    async def record(self, address: str, now: float, free: int) -> float:
        """Count a failure of *address*; return for how many seconds its answer is to wait.

        *now* is monotonic; *free* failures a minute wait only a little.
        """
        count = self._here.record(address, now)
        try:
            count = max(count, await get_cluster().count(f"failures:{address}", int(WINDOW)))
        except Unavailable as error:
            logger.warning("counting a failed authentication: %s", error)
        return failure_delay(count, free)
