"""A predictor as a processor: batches of payloads in, predictions out, a model that survives.

A model is saved every few seconds, with how far it has learnt; what is published, each time, with
how far that goes. After a restart the model learns again what came in between, and what it
predicts of that is dropped: it has been published. Knows nothing of what a model is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from realtime.analytics.predictions.definition import Predictor
from realtime.analytics.predictions.failures import Failures
from realtime.analytics.predictions.seal import seal, unseal
from realtime.analytics.predictions.worker import Worker
from realtime.analytics.processing.contract import Changes, Records
from realtime.config import get_streaming_config
from realtime.filters import matches
from realtime.protocol import encode_payload

logger = logging.getLogger(__name__)

# Bytes of the largest model that is saved: the server is busy with it while others wait.
MAX_MODEL_BYTES = 64 * 1024 * 1024
# Seconds after which no further batch is begun before what there is has been published.
TURN = 0.1
# Seconds until a model that could not be made is tried again.
RETRY_INTERVAL = 10.0
# Fields of the state: the model, and the offset up to which predictions have been published.
_MODEL, _PUBLISHED = "model", "published"


class PredictorProcessor:
    """Runs one predictor."""

    target = "predictions"

    def __init__(self, predictor: Predictor) -> None:
        self.name = predictor.name
        self.source = predictor.source
        self.from_start = predictor.from_start
        self.definition = f"{predictor.source}:{predictor.version}"
        self._predictor = predictor
        self._failures = Failures(predictor.name)
        self._worker = Worker(f"predictor {predictor.name}")
        self._outputs: list[bytes] = []
        self._model: Any = None
        # The model as it was saved, until there is one.
        self._sealed: bytes | None = None
        # Offsets: read up to, published up to.
        self._taken = self._published = 0
        # What is saved of the model next, if anything, and the offset up to which it has learnt.
        self._learnt: tuple[bytes, int] | None = None
        # That offset of what was saved last, None before; when that was, and messages since.
        self._kept: int | None = None
        self._kept_at: float | None = None
        self._since = 0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from the model that was saved."""
        self._sealed = fields.get(_MODEL)
        self._published = int(fields.get(_PUBLISHED, b"0"))

    def skip(self, first: int, last: int | None) -> None:
        """Take note; the model goes on without what is lost."""
        lost = "the log was lost" if last is None else f"{last - first + 1} messages were lost"
        logger.warning("%s: %s before they were read", self.name, lost)
        if last is None:
            self._published = self._taken = self._kept = 0
            self._learnt = self._kept_at = None
        else:
            self._taken = last

    @property
    def urgent(self) -> bool:
        """Whether there are predictions to publish."""
        return bool(self._outputs)

    async def work(self, records: Records) -> int:
        """Predict of what the filters let through, in batches, and save the model if it is time.

        Ends with all messages or, so that predictions are published in time, after a while.
        """
        if self._model is None and not await self._begin():
            return records.first - 1
        if self._kept is None:
            self._kept = self._taken = records.first - 1
        began = time.monotonic()
        while len(records):
            records = await self._take(records)
            if time.monotonic() - began > TURN:
                break
        if self._predictor.keeps_state and self._is_due():
            await self._take_snapshot()
        return records.first - 1

    async def _take(self, records: Records) -> Records:
        """Predict of one batch; return what comes after it."""
        payloads, offsets, last = self._batch(records)
        if payloads:
            self._outputs += await self._predict(payloads, offsets, records.epoch)
        self._taken = last
        self._since += last - records.first + 1
        return records.after(last)

    def close(self) -> None:
        """Let the thread end."""
        self._worker.close()
        self._failures.close()

    def save(self) -> Changes:
        """Return new predictions, and the model if there is one to save."""
        outputs, self._outputs = self._outputs, []
        if not self._predictor.keeps_state:
            return Changes({}, (), outputs)
        self._published = max(self._published, self._taken)
        fields = {_PUBLISHED: str(self._published).encode()}
        if self._learnt is not None:
            fields[_MODEL], self._kept = self._learnt
            self._learnt = None
        return Changes(fields, (), outputs, self._kept)

    async def _begin(self) -> bool:
        """Make the model, as it was saved; tell whether that succeeded."""
        try:
            self._model = await self._worker.run(self._make)
        except Exception as error:
            self._failures.log(error, "cannot begin, and is tried again in 10 seconds")
            await asyncio.sleep(RETRY_INTERVAL)
            return False
        return True

    async def _make(self) -> Any:
        model = self._predictor.make()
        if self._predictor.keeps_state and self._sealed is not None:
            await _result(model.restore(unseal(self.name, self._sealed)))
        self._sealed = None
        return model

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
        try:
            found = _aligned(await self._worker.run(self._model.predict, payloads), len(offsets))
        except Exception as error:
            self._failures.add(error, len(offsets))
            return []
        source = {"type": self.source, "epoch": epoch}
        return [
            body
            for offset, predictions in zip(offsets, found, strict=True)
            if offset > self._published
            for body in self._encode(predictions, source | {"offset": offset})
        ]

    def _encode(self, predictions: Any, source: dict[str, Any]) -> Iterable[bytes]:
        """Encode what was returned for one payload; what cannot be is dropped."""
        largest = get_streaming_config().websocket.max_message_size
        for one in predictions if isinstance(predictions, list) else [predictions]:
            if one is None:
                continue
            try:
                if not isinstance(one, dict):
                    raise TypeError(f"a prediction is a dict, not {type(one).__name__}")
                given = {"predictor": self.name, "source": source}
                body = encode_payload(one | {k: v for k, v in given.items() if k not in one})
                if len(body) > largest:
                    raise ValueError(f"a prediction of {len(body)} bytes; {largest} are allowed")
            except (TypeError, ValueError) as error:
                self._failures.add(error, 1)
            else:
                yield body

    def _is_due(self) -> bool:
        """Tell whether to save the model: it is time, or more would not be retained till then."""
        if self._kept_at is None:
            return True
        if self._taken == self._kept:
            return False
        most = get_streaming_config().websocket.history_size // 4
        return time.monotonic() - self._kept_at >= self._predictor.save_every or self._since > most

    async def _take_snapshot(self) -> None:
        self._kept_at, self._since = time.monotonic(), 0
        try:
            self._learnt = await self._worker.run(self._sealed_model), self._taken
        except Exception as error:
            self._failures.log(
                error, "is not saved: after a restart it goes on from an older state"
            )

    async def _sealed_model(self) -> bytes:
        data = await _result(self._model.save())
        if not isinstance(data, bytes):
            raise TypeError(f"save() returned {type(data).__name__}: expected bytes")
        if len(data) > MAX_MODEL_BYTES:
            raise ValueError(f"save() returned {len(data)} bytes, more than {MAX_MODEL_BYTES}")
        return seal(self.name, data)


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _aligned(found: Any, count: int) -> list[Any]:
    """Check what ``predict`` returned."""
    if found is None:
        return [None] * count
    if isinstance(found, str | bytes | dict) or not isinstance(found, Iterable):
        raise TypeError(f"predict returned {type(found).__name__}: expected a list")
    items = list(found)
    if len(items) != count:
        raise ValueError(f"predict returned {len(items)} items for {count} payloads")
    return items
