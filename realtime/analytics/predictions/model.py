"""The model of one predictor: made, called and saved in a thread of its own.

Saved models are sealed. Most are pickles, and loading a foreign pickle runs foreign code: with the
seal, whose key is made of ``SECRET_KEY``, whoever can write to Redis still cannot make a model.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import close_old_connections
from django.utils.encoding import force_bytes

from realtime.analytics.predictions.definitions import Predictor

# Bytes of the largest model that is saved: the server is busy with it while others wait.
MAX_MODEL_BYTES = 64 * 1024 * 1024
SEAL_BYTES = sha256().digest_size


class CallThread:
    """Calls functions one after another, while the process's event loop goes on.

    A call that has begun cannot be interrupted, but code that hangs does not keep the process.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function or coroutine function; return its result, or raise its exception."""
        if self._thread.ident is None:
            self._thread.start()
        future: Future[Any] = Future()
        self._calls.put((future, lambda: function(*arguments)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread end after the calls so far."""
        self._calls.put(None)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (call := self._calls.get()) is not None:
                future, function = call
                if future.set_running_or_notify_cancel():
                    _carry_out(future, function, runner)


def _carry_out(future: Future[Any], function: Callable[[], Any], runner: asyncio.Runner) -> None:
    """Make a call, with fresh database connections as Django has them around a request."""

    async def wait() -> Any:
        return await result

    close_old_connections()
    try:
        # Not in the loop: there, code that is not async could use neither the ORM nor asyncio.run.
        result = function()
        future.set_result(runner.run(wait()) if inspect.isawaitable(result) else result)
    except (KeyboardInterrupt, SystemExit, StopIteration) as error:
        # A future cannot pass these on.
        failure = RuntimeError(f"{type(error).__name__} was raised")
        failure.__cause__ = error
        future.set_exception(failure)
    except BaseException as error:
        future.set_exception(error)
    finally:
        close_old_connections()


class RunningModel(CallThread):
    """A predictor's model in its thread. Whatever its code raises is raised here."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(f"predictor {predictor.name}")
        self._predictor = predictor
        self._model: Any = None

    async def begin(self, sealed: bytes | None) -> None:
        """Make the model, or restore it; before all else. Raises as :func:`unseal`."""
        predictor = self._predictor
        self._model = await self.run(predictor.make)
        if predictor.keeps_state and sealed is not None:
            data = await self.run(unseal, predictor.name, sealed)
            await self.run(self._model.restore, data)

    async def predict(self, payloads: list[Any]) -> list[Any]:
        """Return what the model predicts, with an item for each payload.

        Raises ``TypeError`` or ``ValueError`` if the model returned something else.
        """
        result = await self.run(self._model.predict, payloads)
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

        Raises ``TypeError`` or ``ValueError`` if the model returned no bytes, or too many.
        """
        data = await self.run(self._model.save)
        if not isinstance(data, bytes):
            raise TypeError(f"save() returned {type(data).__name__}: expected bytes")
        if len(data) > MAX_MODEL_BYTES:
            raise ValueError(f"save() returned {len(data)} bytes, more than {MAX_MODEL_BYTES}")
        sealed: bytes = await self.run(seal, self._predictor.name, data)
        return sealed


def seal(name: str, data: bytes) -> bytes:
    """Return the model of the predictor *name* with a seal before it."""
    return _seal(settings.SECRET_KEY, name, data) + data


def unseal(name: str, sealed: bytes) -> bytes:
    """Return the model. Raises ``ValueError`` if it was not saved by this site."""
    seal_before, data = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        if hmac.compare_digest(seal_before, _seal(secret, name, data)):
            return data
    raise ValueError(
        "its model was saved with another SECRET_KEY: add that to SECRET_KEY_FALLBACKS, or raise "
        "the predictor's version to begin with a new model"
    )


def _seal(secret: str | bytes, name: str, data: bytes) -> bytes:
    key = sha256(b"realtime.predictions:" + force_bytes(secret)).digest()
    return hmac.digest(key, name.encode() + b"\0" + data, "sha256")
