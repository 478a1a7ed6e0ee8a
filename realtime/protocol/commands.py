"""What a client sends: its commands, and how one is read from a frame's text. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from realtime.protocol import ErrorCode, ProtocolError

MAX_METADATA_BYTES = 1024
SUBSCRIPTION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


@dataclass(slots=True)
class Command:
    """A message of a client. ``metadata`` is JSON text, which goes back unchanged."""

    metadata: msgspec.Raw | None


@dataclass(slots=True)
class Auth(Command):
    """``token`` is ``None`` when it is missing or no string: that counts as a wrong one."""

    token: str | None = field(repr=False)


@dataclass(slots=True)
class Subscribe(Command):
    """What ``data`` asks for is read later, once a client may ask."""

    data: dict[str, Any]
    subscription_id: str | None


@dataclass(slots=True)
class Unsubscribe(Command):
    """End the subscription with this id."""

    subscription_id: str


@dataclass(slots=True)
class Ping(Command):
    """Asks for a ``pong``."""


class _Envelope(msgspec.Struct):
    """Takes the metadata out of a message as it was written."""

    metadata: msgspec.Raw = msgspec.Raw()


_envelope = msgspec.json.Decoder(_Envelope)


def _invalid(explanation: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_MESSAGE, explanation)


def parse(text: str | bytes) -> Command:
    """Read one message of a client. Raises :class:`ProtocolError`, nothing else."""
    message = _decode(text)
    metadata = _read_metadata(text, message)
    try:
        return _read_command(message, metadata)
    except ProtocolError as error:
        error.metadata = metadata
        raise


def _decode(text: str | bytes) -> dict[str, Any]:
    if not text:
        raise _invalid("empty message")
    try:
        message = msgspec.json.decode(text)
    except RecursionError:
        raise _invalid("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid(f"not JSON ({error})") from None
    if not isinstance(message, dict):
        raise _invalid("expected a JSON object")
    return message


def _read_metadata(text: str | bytes, message: dict[str, Any]) -> msgspec.Raw | None:
    if message.get("metadata") is None:
        return None
    if not isinstance(message["metadata"], dict):
        raise _invalid("metadata: expected an object")
    raw = bytes(_envelope.decode(text).metadata)  # a copy: the view would keep all of the text
    if len(raw) > MAX_METADATA_BYTES:
        raise _invalid(f"metadata: larger than {MAX_METADATA_BYTES} bytes")
    return msgspec.Raw(raw)


def _read_command(message: dict[str, Any], metadata: msgspec.Raw | None) -> Command:
    kind = _read_field(message, "type", str)
    if kind is None:
        raise _invalid("type: required")
    data = _read_field(message, "data", dict)
    chosen_id = _read_field(message, "subscription_id", str)
    _read_field(message, "timestamp", str)
    if kind == "ping":
        return Ping(metadata)
    if kind == "auth":
        token = (data or {}).get("token")
        return Auth(metadata, token if isinstance(token, str) else None)
    if kind == "subscribe":
        if data is None:
            raise _invalid("data: required")
        if chosen_id is not None and not SUBSCRIPTION_ID.match(chosen_id):
            raise _invalid("subscription_id: expected 1 to 64 characters of A-Z a-z 0-9 _ . : -")
        return Subscribe(metadata, data, chosen_id)
    if kind == "unsubscribe":
        subscription_id = _read_field(data or {}, "subscription_id", str) or chosen_id
        if subscription_id is None:
            raise _invalid("data.subscription_id: required")
        return Unsubscribe(metadata, subscription_id)
    raise ProtocolError(ErrorCode.UNKNOWN_TYPE, details={"type": kind[:256]})


def _read_field(message: dict[str, Any], name: str, expected: type) -> Any:
    value = message.get(name)
    if value is not None and not isinstance(value, expected):
        raise _invalid(f"{name}: expected {'an object' if expected is dict else 'a string'}")
    return value
