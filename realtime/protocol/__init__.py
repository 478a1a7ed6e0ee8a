"""The wire: messages, codes, frames, headers, and what a client may ask for. Pure."""

from realtime.protocol.codes import (
    ERROR_TEXTS,
    PAYLOAD_KEYS,
    SUBSCRIPTION_TYPES,
    CloseCode,
    CloseReason,
    ErrorCode,
    ProtocolError,
)
from realtime.protocol.commands import (
    MAX_METADATA_BYTES,
    SUBSCRIPTION_ID,
    Auth,
    Command,
    Ping,
    Subscribe,
    Unsubscribe,
    parse,
)
from realtime.protocol.messages import (
    Position,
    encode,
    encode_data_head,
    encode_data_tail,
    encode_error,
    encode_payload,
    format_timestamp,
)

__all__ = [
    "ERROR_TEXTS",
    "MAX_METADATA_BYTES",
    "PAYLOAD_KEYS",
    "SUBSCRIPTION_ID",
    "SUBSCRIPTION_TYPES",
    "Auth",
    "CloseCode",
    "CloseReason",
    "Command",
    "ErrorCode",
    "Ping",
    "Position",
    "ProtocolError",
    "Subscribe",
    "Unsubscribe",
    "encode",
    "encode_data_head",
    "encode_data_tail",
    "encode_error",
    "encode_payload",
    "format_timestamp",
    "parse",
]
