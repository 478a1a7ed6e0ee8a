"""WebSocket frames of the server (RFC 6455, section 5): header and text payload. Pure.

A frame is built once for all connections that receive the same message, so it is made here and
not in each connection's protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_TEXT = 0x81  # FIN and opcode 1
_TEXT_DEFLATED = 0xC1  # the same with RSV1, as permessage-deflate marks a compressed message


def header(length: int, deflated: bool = False) -> bytes:
    """Return the header of an unmasked, unfragmented text frame of *length* payload bytes."""
    first = _TEXT_DEFLATED if deflated else _TEXT
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def text_frame(payload: bytes) -> bytes:
    """Return *payload* as one text frame."""
    return header(len(payload)) + payload


def split_frames(frames: bytes) -> Iterator[bytes]:
    """Yield the payload of each frame in *frames*, which :func:`text_frame` made."""
    position = 0
    while position < len(frames):
        length, start = frames[position + 1], position + 2
        if length == 126:
            length, start = int.from_bytes(frames[start : start + 2], "big"), start + 2
        elif length == 127:
            length, start = int.from_bytes(frames[start : start + 8], "big"), start + 8
        position = start + length
        yield frames[start:position]
