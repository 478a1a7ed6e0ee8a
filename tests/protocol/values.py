"""Values that JSON can hold, for the tests of what is sent and of what is received."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st

thorough = settings(deadline=None, max_examples=100)

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp()

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | text | st.floats(allow_nan=False)
finite_scalars = scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
json_values = st.recursive(
    finite_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
