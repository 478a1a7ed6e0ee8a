"""The model of one predictor: made, called and saved in a thread of its own.

Saved models are sealed. Most are pickles, and loading a foreign pickle runs foreign code: with the
seal, whose key is made of ``SECRET_KEY``, whoever can write to Redis still cannot make a model.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.utils.encoding import force_bytes

from realtime.analytics.predictions.definitions import Predictor
from realtime.analytics.predictions.thread import CallThread

# Bytes of the largest model that is saved: the server is busy with it while others wait.
MAX_MODEL_BYTES = 64 * 1024 * 1024
SEAL_BYTES = sha256().digest_size


class BadSeal(Exception):
    """A model was not saved by this site."""


class RunningModel:
    """A predictor's model. Whatever its code raises is raised here."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._thread = CallThread(f"predictor {predictor.name}")
        self._model: Any = None

    async def begin(self, sealed: bytes | None) -> None:
        """Make the model, or restore it. Call before the other methods.

        Raises:
            BadSeal: the model was not saved by this site.
        """
        self._model = await self._thread.run(self._make, sealed)

    async def predict(self, payloads: list[Any]) -> list[Any]:
        """Return what the model predicts, with an item for each payload.

        Raises:
            TypeError, ValueError: the model returned something else.
        """
        result = await self._thread.run(self._model.predict, payloads)
        if result is None:
            return [None] * len(payloads)
        if isinstance(result, str | bytes | dict) or not isinstance(result, Iterable):
            raise TypeError(f"predict returned {type(result).__name__}: expected a list")
        items = list(result)
        if len(items) != len(payloads):
            raise ValueError(f"predict returned {len(items)} items for {len(payloads)} payloads")
        return items

    async def save(self) -> bytes:
        """Return the model, sealed.

        Raises:
            TypeError, ValueError: the model returned no bytes, or too many.
        """
        sealed: bytes = await self._thread.run(self._save)
        return sealed

    def close(self) -> None:
        """Let the thread end."""
        self._thread.close()

    # In the thread

    async def _make(self, sealed: bytes | None) -> Any:
        model = self._predictor.make()
        if self._predictor.keeps_state and sealed is not None:
            await _result(model.restore(unseal(self._predictor.name, sealed)))
        return model

    async def _save(self) -> bytes:
        data = await _result(self._model.save())
        if not isinstance(data, bytes):
            raise TypeError(f"save() returned {type(data).__name__}: expected bytes")
        if len(data) > MAX_MODEL_BYTES:
            raise ValueError(f"save() returned {len(data)} bytes, more than {MAX_MODEL_BYTES}")
        return seal(self._predictor.name, data)


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def seal(name: str, data: bytes) -> bytes:
    """Return the model of the predictor *name* with a seal before it."""
    return _seal(settings.SECRET_KEY, name, data) + data


def unseal(name: str, sealed: bytes) -> bytes:
    """Return the model. Raises :class:`BadSeal`."""
    found_seal, data = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        if hmac.compare_digest(found_seal, _seal(secret, name, data)):
            return data
    raise BadSeal(
        "its model was saved with another SECRET_KEY: add that to SECRET_KEY_FALLBACKS, or raise "
        "the predictor's version to begin with a new model"
    )


def _seal(secret: str | bytes, name: str, data: bytes) -> bytes:
    key = sha256(b"realtime.predictions:" + force_bytes(secret)).digest()
    return hmac.digest(key, name.encode() + b"\0" + data, "sha256")
