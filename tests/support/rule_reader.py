"""An aggregation rule without its surroundings: fed, saved and restarted as a runner does."""

from __future__ import annotations

from typing import Any

import msgspec

from realtime.analytics.aggregation.processor import AggregationProcessor
from realtime.analytics.aggregation.rule import AggregationSpec
from realtime.analytics.processing.contract import Records

# 2013-01-01T00:00:00Z
NEW_YEAR = 1_356_998_400


class Reader:
    """Feeds a rule as the runner does, and collects what it publishes."""

    def __init__(self, made: AggregationSpec) -> None:
        self.rule = made
        self.processor = AggregationProcessor(made)
        self.processor.restore({})
        self.fields: dict[str, bytes] = {}
        self.outputs: list[bytes] = []
        self.offset = 0
        # The offset up to which messages had been taken when the state was saved.
        self.saved_at = 0

    def take(self, *payloads: Any, published: float = NEW_YEAR + 1e6) -> None:
        records = Records(self.offset + 1, list(payloads), [published] * len(payloads))
        if payloads:
            self.processor.take(records)
        self.offset = records.last

    def save(self) -> None:
        while True:
            changes = self.processor.save()
            for fields in *changes.parts, changes.fields:
                self.fields.update(fields)
            for name in changes.removed:
                self.fields.pop(name, None)
            self.outputs += changes.outputs
            self.saved_at = self.offset
            if not self.processor.urgent:
                return

    def save_some(self, parts: int) -> None:
        """Save so many parts of the state, and be killed then."""
        changes = self.processor.save()
        for part in list(changes.parts)[:-1][:parts]:
            self.fields.update(part)
        self.restart()

    def restart(self) -> None:
        self.processor = AggregationProcessor(self.rule)
        self.processor.restore(self.fields)

    @property
    def results(self) -> list[dict[str, Any]]:
        self.save()
        return [msgspec.json.decode(output) for output in self.outputs]
