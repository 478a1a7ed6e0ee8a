"""The client's side of RFC 6455, as little as a load generator needs: bytes in, bytes out."""

from __future__ import annotations

import base64
import hashlib

_KEY = base64.b64encode(b"benchmark client").decode()
_ACCEPT = base64.b64encode(
    hashlib.sha1(f"{_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
)
_MASK = b"\x37\xfa\x21\x3d"
_TEXT = 0x81  # FIN and opcode 1
CLOSE = 0x88
CLOSE_FRAME = bytes((CLOSE, 0x82)) + bytes(4) + (1000).to_bytes(2, "big")


class LoadError(Exception):
    """The server did not send what it should have."""


def upgrade(path: str) -> bytes:
    """Return the request that opens a WebSocket; no extension is offered."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def take_upgrade(buffer: bytearray) -> bool:
    """Remove the server's answer to :func:`upgrade` from *buffer*; false if it is not all there."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return False
    answer = bytes(buffer[:end])
    if not answer.startswith(b"HTTP/1.1 101") or _ACCEPT not in answer:
        raise LoadError(f"handshake refused: {answer!r}")
    del buffer[: end + 4]
    return True


def masked(text: bytes) -> bytes:
    """Return *text* as a client's frame."""
    length = len(text)
    size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    key = int.from_bytes((_MASK * (length // 4 + 1))[:length], "big")
    body = (int.from_bytes(text, "big") ^ key).to_bytes(length, "big")
    return bytes((_TEXT,)) + size + _MASK + body


def frame_end(buffer: bytes | bytearray, start: int) -> int:
    """Return where the frame that begins at *start* ends, which may be past the buffer's end.

    Returns 0 if its header is not complete. Anything but an unmasked, unfragmented, uncompressed
    text frame is an error: no peer has a reason to send one during a measurement.
    """
    if len(buffer) < start + 2:
        return 0
    length = buffer[start + 1]
    if buffer[start] != _TEXT or length > 127:
        kind = "close" if buffer[start] == CLOSE else "unexpected"
        raise LoadError(f"{kind} frame: {bytes(buffer[start : start + 80])!r}")
    if length < 126:
        return start + 2 + length
    width = 2 if length == 126 else 8
    if len(buffer) < start + 2 + width:
        return 0
    return start + 2 + width + int.from_bytes(buffer[start + 2 : start + 2 + width], "big")


def frame_text(frame: bytes | bytearray) -> bytes:
    """Return the payload of one complete frame."""
    header = {126: 4, 127: 10}.get(frame[1], 2)
    return bytes(frame[header:])


def take_texts(buffer: bytearray) -> list[bytes]:
    """Remove the complete frames from *buffer* and return their payloads."""
    texts = []
    start = 0
    while (end := frame_end(buffer, start)) and end <= len(buffer):
        texts.append(frame_text(buffer[start:end]))
        start = end
    del buffer[:start]
    return texts


def take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Remove a complete frame of any kind from *buffer*; return its first byte and its payload."""
    if len(buffer) < 2:
        return None
    width = {126: 2, 127: 8}.get(buffer[1], 0)
    start = 2 + width
    end = start + (int.from_bytes(buffer[2:start], "big") if width else buffer[1])
    if len(buffer) < max(start, end):
        return None
    frame = buffer[0], bytes(buffer[start:end])
    del buffer[:end]
    return frame


def count_frames(buffer: bytearray, start: int) -> tuple[int, int]:
    """Return how many complete frames there are from *start* on, and where the last ends."""
    count = 0
    while (end := frame_end(buffer, start)) and end <= len(buffer):
        start = end
        count += 1
    return count, start
