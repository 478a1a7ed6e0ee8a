"""The catalogues of the contract: types, error codes and texts, close codes and reasons."""

from __future__ import annotations

from realtime.protocol import (
    ERROR_TEXTS,
    PAYLOAD_KEYS,
    SUBSCRIPTION_TYPES,
    CloseCode,
    CloseReason,
    ErrorCode,
)


def test_the_payload_keys_are_the_documents() -> None:
    assert PAYLOAD_KEYS == {
        "events": "event",
        "metrics": "metrics",
        "alerts": "alert",
        "predictions": "prediction",
        "aggregations": "aggregation",
        "system_status": "status",
    }
    assert set(SUBSCRIPTION_TYPES) == set(PAYLOAD_KEYS)


CONTRACT_TEXTS = {
    "rate_limited": "Rate limit exceeded",
    "invalid_message": "Invalid message format: ",
    "unknown_type": "Unknown message type",
    "auth_required": "Authentication required",
    "forbidden": "Not permitted",
    "invalid_subscription": "Invalid subscription: ",
    "unknown_subscription": "Unknown subscription",
    "duplicate_subscription": "Duplicate subscription",
    "too_many_subscriptions": "Too many subscriptions",
    "data_lost": "Data lost",
    "restarting": "Server restarting",
    "unavailable": "Temporarily unavailable",
}


def test_every_error_code_has_its_text_of_the_contract() -> None:
    assert set(ERROR_TEXTS) == set(ErrorCode)
    texts = {code.value: words for code, words in ERROR_TEXTS.items()}
    # `data_lost` belongs to offsets: as soon as there is such a code, it has this text.
    assert texts == {code: CONTRACT_TEXTS[code] for code in texts}
    assert set(CONTRACT_TEXTS) - set(texts) <= {"data_lost"}


def test_the_close_codes_are_the_contracts() -> None:
    assert sorted(CloseCode) == [1002, 1007, 1008, 1009, 1011, 1012, 1013]


def test_the_close_reasons_are_the_contracts_and_fit_a_close_frame() -> None:
    assert {reason.value for reason in CloseReason} == {
        "origin not allowed",
        "authentication timeout",
        "authentication failed",
        "token revoked",
        "token expired",
        "flooding",
        "disconnected by an administrator",
        "server at capacity",
        "token connection limit",
        "address connection limit",
        "slow consumer",
        "server restarting",
        "message too big",
        "internal error",
    }
    assert all(len(reason.encode()) <= 123 for reason in CloseReason)
