"""Lua programs for Redis and Valkey, read from the ``.lua`` files beside the modules that use them.

Knows how a program is loaded and called; nothing of what the programs do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError

_INCLUDE = re.compile(r"^-- include (realtime[\w.]*)/(\w+)\.lua$", re.MULTILINE)


class Script:
    """A Lua program: ``Script("realtime.log", "read")`` is the file ``realtime/log/read.lua``.

    A line ``-- include realtime.log/append.lua`` in it stands for the text of that file. A server
    runs the program by its digest; only one that does not have it yet is sent the text.
    """

    def __init__(self, package: str, name: str) -> None:
        self.text = _load(package, name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, client: redis.Redis, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result."""
        try:
            return client.evalsha(self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.eval(self.text, len(keys), *keys, *arguments)

    async def acall(self, client: AsyncRedis, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result; the coroutine form of :meth:`call`."""
        try:
            return await client.evalsha(self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *arguments)


def as_text(value: bytes) -> msgspec.Raw:
    """Return bytes as text for ``cmsgpack.unpack``, which cannot read msgspec's binary type."""
    return msgspec.Raw(b"\xdb" + len(value).to_bytes(4, "big") + value)


def _load(package: str, name: str) -> str:
    text = files(package).joinpath(f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda match: _load(match[1], match[2]), text)
