"""A processor that adds up numbers and publishes each tenth sum; as a program, until stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from realtime.analytics.processing.contract import Changes, Records


class Adder:
    """Adds up the ``n`` of events; publishes ``{"count", "sum"}`` after every tenth."""

    source = "events"
    target = "aggregations"
    from_start = True

    def __init__(self, name: str, definition: str = "1") -> None:
        self.name = name
        self.definition = definition
        self.count = 0
        self.sum = 0
        self.skipped: list[tuple[int, int | None]] = []
        self.ticks = 0
        self._outputs: list[bytes] = []

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from the sum that was saved."""
        if "state" in fields:
            self.count, self.sum = msgspec.json.decode(fields["state"])

    def take(self, records: Records) -> None:
        """Add."""
        for number in records.column(("n",)):
            self.count += 1
            self.sum += number
            if self.count % 10 == 0:
                result = {"adder": self.name, "count": self.count, "sum": self.sum}
                self._outputs.append(msgspec.json.encode(result))

    def skip(self, first: int, last: int | None) -> None:
        """Remember."""
        self.skipped.append((first, last))

    def tick(self, now: float) -> None:
        """Count."""
        self.ticks += 1

    @property
    def urgent(self) -> bool:
        """Whether a sum is due."""
        return bool(self._outputs)

    def save(self) -> Changes:
        """Return the sum."""
        outputs, self._outputs = self._outputs, []
        state = msgspec.json.encode((self.count, self.sum))
        return Changes({"state": state}, (), outputs)


def main() -> None:
    """Run so many adders."""
    import django

    django.setup()
    from realtime.analytics.processing.runner import Runner
    from realtime.management.processing import run_until_stopped

    names = [f"adder-{number}" for number in range(int(sys.argv[1]))]
    print("running", flush=True)
    run_until_stopped(Runner("adders", lambda: [Adder(name) for name in names]))


if __name__ == "__main__":
    main()
