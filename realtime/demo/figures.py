"""What follows from the records, message by message.

Knows only the records it was given: no Django, no clock, no I/O. Time is the records' own.
"""

from __future__ import annotations

from datetime import datetime

from realtime.demo.delays import AirportDelays, long_delay_alert
from realtime.demo.messages import Message
from realtime.demo.records import Arrival, Departure, Record, Weather


class Figures:
    """The running figures of one round through the data, which starts at ``start``.

    What comes out depends on the records and their order alone, not on how often
    :meth:`advance` is called between them.
    """

    def __init__(self, start: datetime, round_number: int = 1) -> None:
        self._delays = AirportDelays(start, round_number)

    def add(self, record: Record) -> list[Message]:
        """Take the next record in; return it and what follows from it, in publishing order."""
        messages = self.advance(record.time)
        self._delays.add(record)
        if isinstance(record.item, Weather):
            return [*messages, Message("metrics", record.raw)]
        messages.append(Message("events", record.raw))
        if isinstance(record.item, Departure | Arrival):
            messages += long_delay_alert(record.item)
        return messages

    def advance(self, time: datetime) -> list[Message]:
        """Let the time pass up to ``time``, before which no more records will come."""
        return self._delays.advance(time)

    def finish(self) -> list[Message]:
        """Publish the last window, which no later record closes."""
        return self._delays.advance(self._delays.next_end)
