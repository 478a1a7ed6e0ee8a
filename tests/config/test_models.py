"""The fields of the configuration of JSON Web Tokens; the others are in test_reading.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.auth.issuer import (
    SECRET,
    configure,
)


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": ""},
        {"audience": ""},
        {"types_claim": ""},
        {"filters_claim": ""},
        {"leeway": -1},
        {"leeway": 301},
        {"max_lifetime": 59},
        {"max_lifetime": 30 * 86_400 + 1},
        {"algorithms": ["none"]},
        {"algorithms": ["HS512"]},
        {"algorithms": "hs256"},
        {"algorithms": "[HS256"},
        {"algorithms": {"HS256": True}},
        {"secret": SECRET},
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configure(**fields)


def test_the_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        configure().issuer = "https://attacker.example.com"
