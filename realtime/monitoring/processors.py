"""How far each processor (a rule or a predictor) is behind, and when it last read its messages.

The processes that run processors report it to Redis, beside the list of processes. A report stays
after its process has ended, since an operator has to learn that nobody runs a processor any more.
Knows nothing of what processors do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import msgspec

from realtime.cluster import get_cluster

# Seconds after which a processor that nobody runs is forgotten.
FORGET_AFTER = 86_400


class Report(msgspec.Struct):
    """The state of a processor.

    ``group`` names the processes that share its work, ``source`` the subscription type that it
    reads. ``lag`` is the number of messages in the source's log that it has not taken in,
    ``read_at`` when it last took in what it had read, in seconds since 1970.
    """

    group: str
    processor: str
    source: str
    lag: int
    read_at: float


_decoder = msgspec.json.Decoder(Report)


_TABLE = "processors"


async def report(group: str, names: Collection[str], running: Sequence[Report]) -> None:
    """Report the processors that run here; forget those of the group that are not in *names*.

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
