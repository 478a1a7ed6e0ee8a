"""What those who run processors report of them: how far each is behind, and when it last read.

Kept where processes find each other, beyond the end of who reported it: that nobody runs a
processor any more is what an operator has to learn. Knows nothing of what processors do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import msgspec

from realtime.cluster import get_cluster

# Seconds after which a processor that nobody runs is forgotten.
FORGET_AFTER = 86_400


class Report(msgspec.Struct):
    """How a processor stands.

    ``group`` names those who share it with others, ``lag`` is messages of the source's log that it
    has not taken in, ``read_at`` when it last took in what it had read, in seconds since 1970.
    """

    group: str
    processor: str
    source: str
    lag: int
    read_at: float


_decoder = msgspec.json.Decoder(Report)


_TABLE = "processors"


async def report(group: str, names: Collection[str], running: Sequence[Report]) -> None:
    """Report those that run here; forget those of the group that are not among *names* any more.

    Raises:
        realtime.cluster.clients.Unavailable: the server does not answer.
    """
    long_ago = time.time() - FORGET_AFTER
    reports = {each.processor: each for each in (*await read_reports(), *running)}
    forgotten = {
        name
        for name, each in reports.items()
        if each.read_at < long_ago or (each.group == group and name not in names)
    }
    rows = {
        each.processor: msgspec.json.encode(each)
        for each in running
        if each.processor not in forgotten
    }
    await get_cluster().write_rows(_TABLE, rows, forgotten, seconds=FORGET_AFTER)


async def read_reports() -> list[Report]:
    """Return how all processors stand, in the order of their names. Raises as :func:`report`."""
    rows = await get_cluster().read_rows(_TABLE)
    return sorted(map(_decoder.decode, rows.values()), key=lambda report: report.processor)
