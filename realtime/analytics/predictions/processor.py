"""A predictor as a processor: batches of payloads in, predictions out, and a model that is saved.

The model is saved every few seconds, with the offset up to which it has learnt; predictions are
published at once, with the offset up to which they go. After a restart the model learns again what
came between the two offsets, and the predictions of that are dropped, as they are published:

    offsets    ... 90 ............... 120 ............... 150
                   | saved model       | published         | newest message
                   | has learnt this   | up to here        |
                   |-- learnt again, --|-- learnt, and ----|
                   |   not published   |   published       |

Knows nothing of what a model is.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from realtime.analytics.predictions.definitions import Predictor
from realtime.analytics.predictions.model import RunningModel
from realtime.analytics.processing.contract import Changes, Records
from realtime.config import get_streaming_config
from realtime.filters import matches
from realtime.protocol import encode_payload

logger = logging.getLogger(__name__)

# Seconds after which no further batch begins until the predictions so far have been published.
TURN = 0.1
# Seconds until a model that could not be made is tried again.
RETRY_INTERVAL = 10.0
# Seconds between lines that say how often a predictor failed.
REPORT_INTERVAL = 60.0
# Fields of the state: the model, and the offset up to which predictions have been published.
_MODEL, _PUBLISHED = "model", "published"


class PredictorFailures:
    """The failures of one predictor: each is logged once, with a traceback, and all are counted."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Exception type and the place that raised it, of failures that have been logged.
        self._logged: set[tuple[str, str, int]] = set()
        self._messages = self._reported = 0
        self._due = 0.0

    def add(self, error: Exception, messages: int) -> None:
        """Count messages of which there are no predictions because of an error."""
        self._messages += messages
        if self.log(error, f"skips {messages} messages"):
            self._due = self._due or time.monotonic() + REPORT_INTERVAL
        if time.monotonic() >= self._due:
            self.report()

    def log(self, error: Exception, consequence: str) -> bool:
        """Log an error unless the same was logged before; tell whether it was logged now."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        failure = (type(error).__name__, place.filename, place.lineno or 0)
        if failure in self._logged:
            return False
        self._logged.add(failure)
        logger.error("%s %s: %s", self._name, consequence, error, exc_info=error)
        return True

    def report(self) -> None:
        """Log how often it failed, unless that has been logged."""
        if self._messages > self._reported:
            logger.warning("%s: no predictions of %d messages so far", self._name, self._messages)
            self._reported = self._messages
            self._due = time.monotonic() + REPORT_INTERVAL


class PredictorProcessor:
    """Runs one predictor."""

    target = "predictions"

    def __init__(self, predictor: Predictor) -> None:
        self.name = predictor.name
        self.source = predictor.source
        self.from_start = predictor.from_start
        self.definition = f"{predictor.source}:{predictor.version}"
        self._predictor = predictor
        self._failures = PredictorFailures(predictor.name)
        self._model = RunningModel(predictor)
        self._has_begun = False
        self._outputs: list[bytes] = []
        # The model as it was saved, until it has been restored.
        self._sealed: bytes | None = None
        # Offsets: of the last message read, and of the last one with published predictions.
        self._taken = self._published = 0
        # The model to be saved next, if any, and the offset up to which it has learnt.
        self._snapshot: tuple[bytes, int] | None = None
        # That offset of the model saved last, None if there is none; when it was saved; and how
        # many messages were read since.
        self._saved: int | None = None
        self._saved_at: float | None = None
        self._since = 0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from the model that was saved."""
        self._sealed = fields.get(_MODEL)
        self._published = int(fields.get(_PUBLISHED, b"0"))

    def skip(self, first: int, last: int | None) -> None:
        """Go on without lost messages, with the same model."""
        if last is None:
            self._published = self._taken = self._saved = 0
            self._snapshot = self._saved_at = None
        else:
            self._taken = last

    @property
    def urgent(self) -> bool:
        """Whether there are predictions to publish."""
        return bool(self._outputs)

    async def work(self, records: Records) -> int:
        """Predict of the messages that match, in batches, and save the model if it is time.

        Ends early after a while, so that predictions are published in time.
        """
        if not self._has_begun and not await self._begin():
            return records.first - 1
        if self._saved is None:
            self._saved = self._taken = records.first - 1
        began = time.monotonic()
        while len(records) and time.monotonic() - began <= TURN:
            payloads, offsets, last = self._batch(records)
            if payloads:
                self._outputs += await self._predict(payloads, offsets, records.epoch)
            self._taken = last
            self._since += last - records.first + 1
            records = records.after(last)
        if self._predictor.keeps_state and self._is_due():
            self._saved_at, self._since = time.monotonic(), 0
            try:
                self._snapshot = await self._model.save(), self._taken
            except Exception as error:
                self._failures.log(
                    error, "is not saved: after a restart it goes on from an older state"
                )
        return records.first - 1

    def close(self) -> None:
        """Let the model go."""
        self._model.close()
        self._failures.report()

    def save(self) -> Changes:
        """Return new predictions, and the model if there is one to save."""
        outputs, self._outputs = self._outputs, []
        if not self._predictor.keeps_state:
            return Changes({}, (), outputs)
        self._published = max(self._published, self._taken)
        fields = {_PUBLISHED: str(self._published).encode()}
        if self._snapshot is not None:
            fields[_MODEL], self._saved = self._snapshot
            self._snapshot = None
        return Changes(fields, (), outputs, self._saved)

    async def _begin(self) -> bool:
        """Make the model, as it was saved; tell whether that succeeded."""
        try:
            await self._model.begin(self._sealed)
        except Exception as error:
            self._failures.log(error, "cannot begin, and is tried again in 10 seconds")
            await asyncio.sleep(RETRY_INTERVAL)
            return False
        self._sealed = None
        self._has_begun = True
        return True

    def _batch(self, records: Records) -> tuple[list[Any], list[int], int]:
        """Return the first payloads that match, their offsets, and the last offset looked at."""
        payloads: list[Any] = []
        offsets: list[int] = []
        for offset, payload in enumerate(records, records.first):
            if payload is None or not matches(self._predictor.filters, payload):
                continue
            payloads.append(payload)
            offsets.append(offset)
            if len(payloads) == self._predictor.batch_size:
                return payloads, offsets, offset
        return payloads, offsets, records.last

    async def _predict(
        self, payloads: list[Any], offsets: Sequence[int], epoch: str
    ) -> list[bytes]:
        """Return the new predictions of a batch, encoded; none of a batch that fails."""
        try:
            results = await self._model.predict(payloads)
        except Exception as error:
            self._failures.add(error, len(offsets))
            return []
        source = {"type": self.source, "epoch": epoch}
        return [
            body
            for offset, predictions in zip(offsets, results, strict=True)
            if offset > self._published
            for body in self._encode(predictions, source | {"offset": offset})
        ]

    def _encode(self, predictions: Any, source: dict[str, Any]) -> Iterable[bytes]:
        """Encode the predictions of one payload; those that cannot be published are dropped."""
        largest = get_streaming_config().websocket.max_message_size
        for prediction in predictions if isinstance(predictions, list) else [predictions]:
            if prediction is None:
                continue
            try:
                if not isinstance(prediction, dict):
                    raise TypeError(f"a prediction is a dict, not {type(prediction).__name__}")
                body = encode_payload({"predictor": self.name, "source": source} | prediction)
                if len(body) > largest:
                    raise ValueError(f"a prediction of {len(body)} bytes; {largest} are allowed")
            except (TypeError, ValueError) as error:
                self._failures.add(error, 1)
            else:
                yield body

    def _is_due(self) -> bool:
        """Tell whether to save the model: it is time, or the log will not retain more for long."""
        if self._saved_at is None:
            return True
        if self._taken == self._saved:
            return False
        most = get_streaming_config().websocket.history_size // 4
        is_time = time.monotonic() - self._saved_at >= self._predictor.save_every
        return is_time or self._since > most
