"""The catalogues of the contract: subscription types, error codes, close codes. Pure."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec

# Subscription type -> the key of the payload in a data message.
PAYLOAD_KEYS = {
    "events": "event",
    "metrics": "metrics",
    "alerts": "alert",
    "predictions": "prediction",
    "aggregations": "aggregation",
    "system_status": "status",
}
SUBSCRIPTION_TYPES = tuple(PAYLOAD_KEYS)


class ErrorCode(StrEnum):
    """Codes of ``error`` messages; :data:`ERROR_TEXTS` has their exact texts."""

    RATE_LIMITED = "rate_limited"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    AUTH_REQUIRED = "auth_required"
    FORBIDDEN = "forbidden"
    INVALID_SUBSCRIPTION = "invalid_subscription"
    UNKNOWN_SUBSCRIPTION = "unknown_subscription"
    DUPLICATE_SUBSCRIPTION = "duplicate_subscription"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    DATA_LOST = "data_lost"
    RESTARTING = "restarting"
    UNAVAILABLE = "unavailable"


# The two that end with a colon are followed by what is wrong.
ERROR_TEXTS = {
    ErrorCode.RATE_LIMITED: "Rate limit exceeded",
    ErrorCode.INVALID_MESSAGE: "Invalid message format: ",
    ErrorCode.UNKNOWN_TYPE: "Unknown message type",
    ErrorCode.AUTH_REQUIRED: "Authentication required",
    ErrorCode.FORBIDDEN: "Not permitted",
    ErrorCode.INVALID_SUBSCRIPTION: "Invalid subscription: ",
    ErrorCode.UNKNOWN_SUBSCRIPTION: "Unknown subscription",
    ErrorCode.DUPLICATE_SUBSCRIPTION: "Duplicate subscription",
    ErrorCode.TOO_MANY_SUBSCRIPTIONS: "Too many subscriptions",
    ErrorCode.DATA_LOST: "Data lost",
    ErrorCode.RESTARTING: "Server restarting",
    ErrorCode.UNAVAILABLE: "Temporarily unavailable",
}


class CloseCode(IntEnum):
    """WebSocket close codes the server sends (RFC 6455, section 7.4, and the IANA registry)."""

    PROTOCOL_ERROR = 1002
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


class CloseReason(StrEnum):
    """The exact reasons sent with a close code."""

    ORIGIN = "origin not allowed"
    AUTH_TIMEOUT = "authentication timeout"
    AUTH_FAILED = "authentication failed"
    TOKEN_REVOKED = "token revoked"  # noqa: S105 - a reason, not a secret
    TOKEN_EXPIRED = "token expired"  # noqa: S105 - a reason, not a secret
    FLOODING = "flooding"
    DISCONNECTED = "disconnected by an administrator"
    CAPACITY = "server at capacity"
    TOKEN_CONNECTIONS = "token connection limit"  # noqa: S105 - a reason, not a secret
    ADDRESS_CONNECTIONS = "address connection limit"
    SLOW_CONSUMER = "slow consumer"
    RESTARTING = "server restarting"
    TOO_BIG = "message too big"
    INTERNAL = "internal error"


class ProtocolError(Exception):
    """What a client sent cannot be served; becomes the ``error`` message with this code."""

    def __init__(
        self, code: ErrorCode, explanation: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(ERROR_TEXTS[code] + explanation)
        self.code = code
        self.details = details
        self.metadata: msgspec.Raw | None = None  # the client's own, when it could be read
