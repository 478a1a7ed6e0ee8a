"""WebSocket frames of the server (RFC 6455, section 5; RFC 7692 for compression). Pure.

A frame is built once for all connections that receive the same message, so it is made here and
not in each connection's protocol.
"""

from __future__ import annotations

import struct
import zlib
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


def deflate(data: bytes) -> bytes:
    """Compress *data* as complete deflate blocks that end on a byte, to be followed by others."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def stored_block(length: int) -> bytes:
    """Return what precedes *length* bytes that go into a deflate stream as they are.

    With it, what differs between clients follows what was compressed once for all of them
    (RFC 1951, section 3.2.4). *length* is at most 65,535.
    """
    return struct.pack("<BHH", 0, length, length ^ 0xFFFF)


# Ends a message after a stored block: the first byte of the empty block whose other four bytes
# permessage-deflate leaves out (RFC 7692, section 7.2.1).
STORED_END = b"\x00"
