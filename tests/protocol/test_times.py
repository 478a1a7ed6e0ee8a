"""The time in a message, as aggregation rules and alert rules read it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol import format_timestamp
from realtime.protocol.times import EARLIEST, FIRST_MILLISECONDS, LATEST, read_time

# 2017-01-01T00:00:00Z, which a leap second came before.
NEW_YEAR = 1_483_228_800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        # Numbers.
        (7, 7),
        (7.25, 7.25),
        (-1, -1),
        (0, 0),
        (FIRST_MILLISECONDS - 1, FIRST_MILLISECONDS - 1),
        (FIRST_MILLISECONDS, FIRST_MILLISECONDS / 1000),
        (NEW_YEAR * 1000 + 500, NEW_YEAR + 0.5),
        (NEW_YEAR * 1000.0, NEW_YEAR),
        (LATEST * 1000, LATEST),
        (EARLIEST, EARLIEST),
        # RFC 3339.
        ("2017-01-01T00:00:00Z", NEW_YEAR),
        ("2017-01-01T00:00:00.25Z", NEW_YEAR + 0.25),
        ("2017-01-01T02:00:00+02:00", NEW_YEAR),
        ("2016-12-31T16:00:00-08:00", NEW_YEAR),
        ("2017-01-01T00:00:00-00:00", NEW_YEAR),
        ("2017-01-01 00:00:00Z", NEW_YEAR),
        ("2017-01-01t00:00:00z", NEW_YEAR),
        ("2017-01-01T00:00:00z", NEW_YEAR),
        ("2017-01-01 00:00:00.5z", NEW_YEAR + 0.5),
        ("1969-12-31T23:59:59Z", -1),
        # Without an offset.
        ("2017-01-01T00:00:00", NEW_YEAR),
        ("2017-01-01 00:00:00.5", NEW_YEAR + 0.5),
        ("2017-01-01", NEW_YEAR),
        # Leap seconds.
        ("2016-12-31T23:59:60Z", NEW_YEAR),
        ("2016-12-31t23:59:60z", NEW_YEAR),
        ("2016-12-31 23:59:60", NEW_YEAR),
        ("2016-12-31T23:59:60.75Z", NEW_YEAR + 0.75),
        ("2017-01-01T00:59:60+01:00", NEW_YEAR),
        ("2016-12-31T15:59:60-08:00", NEW_YEAR),
    ],
)
def test_a_time_is_read(value: Any, seconds: float) -> None:
    time = read_time(value)
    assert time == seconds
    # Ids of alerts are made of it, also of one that was stored and is a float then.
    assert type(time) is float


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, [], {}, b"2017-01-01T00:00:00Z"),
        *(LATEST * 1000 + 1, EARLIEST - 1, 10**400, -(10**400), 1e300, -1e300),
        *(float("nan"), float("inf"), float("-inf")),
        *(
            "",
            "soon",
            "z",
            "1483228800",
            "20170101",
            "1" * 10_000,
            "2017-13-01T00:00:00Z",
            "2017-01-01T24Z",
        ),
        *("2017-01-01T00:00:00ZZ", "2017-01-01T00:00:00zz", "2017-01-01T00:00:61Z"),
        # No leap second: it comes at the end of a day in UTC.
        *("2016-12-31T12:00:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T23:58:60Z"),
        # Beyond the years that can be written.
        *("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"),
        *("9999-12-31T23:59:60", "0001-01-01T00:00:00+23:59x", "2016-12-31T23:59:60Zulu"),
    ],
)
def test_what_is_no_time(value: Any) -> None:
    assert read_time(value) is None


@given(st.integers(0, 2 * 10**12))
def test_what_is_written_is_read(milliseconds: int) -> None:
    assert read_time(format_timestamp(milliseconds / 1000)) == milliseconds / 1000


@given(st.text("0123456789-:.+tTzZ ", max_size=32) | st.floats() | st.integers())
def test_whatever_comes_is_a_time_or_none(value: Any) -> None:
    seconds = read_time(value)
    assert seconds is None or EARLIEST <= seconds <= LATEST
