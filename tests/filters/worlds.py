"""Small worlds of filters and payloads, and what matches in them by a naive evaluator."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from realtime.filters.compiler import compile_filters
from realtime.protocol.subscribe import SubscribeRequest

thorough = settings(deadline=None, max_examples=100)

# A small world, so that paths and values meet: what is equal, and what only looks so.
steps = st.sampled_from(["a", "b", "c", "0"])
values = st.sampled_from(
    [None, True, False, 0, 1, 0.0, 1.0, -0.0, 0.5, 2**53, 2**53 + 1, "", "0", "1", "true", "null"]
)
payloads = st.recursive(
    values,
    lambda inner: st.dictionaries(steps, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
objects = st.dictionaries(steps, payloads, max_size=4)
paths = st.lists(steps, min_size=1, max_size=3).map(".".join)
exact = values | st.lists(values, min_size=1, max_size=3)
plain_filters = st.dictionaries(paths, exact, max_size=3)
bounds = st.sampled_from([-1, 0, 0.5, 1, 1.0, 2**53, 2**53 + 1, 10**400, "", "0", "1", "b", "true"])
texts = st.sampled_from(["", "0", "1", "t", "true", "e", "ue", "u"])
operators = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("eq", "ne"), values),
        **dict.fromkeys(("in", "nin"), st.lists(values, min_size=1, max_size=3)),
        **dict.fromkeys(("gt", "gte", "lt", "lte"), bounds),
        **dict.fromkeys(("prefix", "suffix"), texts),
        "contains": values,
        "exists": st.booleans(),
    },
).filter(bool)
# Few at once, or nothing would ever match.
few_operators = operators.map(lambda all_of: dict(list(all_of.items())[:3]))


def filters_up_to(depth: int, least: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Return filters with alternatives in alternatives, so many deep."""
    conditions = st.dictionaries(paths, exact | few_operators, min_size=least, max_size=2)
    if not depth:
        return conditions
    alternatives = st.lists(filters_up_to(depth - 1, 1), min_size=1, max_size=3)
    return st.builds(
        lambda filters, either: filters | ({"$or": either} if either else {}),
        conditions,
        st.none() | alternatives,
    )


filters = plain_filters | filters_up_to(2)


def equal_in_json(first: Any, second: Any) -> bool:
    """Compare two scalars by their kinds in JSON, then by value."""
    kinds: list[type | tuple[type, ...]] = [bool, (int, float), str, type(None)]
    for kind in kinds:
        if isinstance(first, kind) or isinstance(second, kind):
            return isinstance(first, kind) and isinstance(second, kind) and bool(first == second)
    return False


def naive_match(wanted: dict[str, Any], payload: Any) -> bool:
    """Tell whether *payload* is as wanted at every path, step by step."""
    for path, value in wanted.items():
        if path == "$or":
            if not any(naive_match(alternative, payload) for alternative in value):
                return False
            continue
        found = [payload]
        for step in path.split("."):
            found = [one[step] for one in found if isinstance(one, dict) and step in one]
        if isinstance(value, dict):
            tests = value
        else:
            tests = {"in": value if isinstance(value, list) else [value]}
        if not all(naive_test(found, name, operand) for name, operand in tests.items()):
            return False
    return True


def naive_test(found: list[Any], name: str, operand: Any) -> bool:
    """Tell whether the value that was found, if any was, passes one operator."""
    if name == "exists":
        return bool(found) is operand
    if not found:
        return False
    [here] = found
    if name in ("eq", "in"):
        accepted = operand if name == "in" else [operand]
        return any(equal_in_json(here, item) for item in accepted)
    if name in ("ne", "nin"):
        refused = operand if name == "nin" else [operand]
        return not any(equal_in_json(here, item) for item in refused)
    if name == "contains" and isinstance(here, list):
        return any(equal_in_json(item, operand) for item in here)
    if isinstance(here, bool) or isinstance(operand, bool):
        return False
    both_text = isinstance(here, str) and isinstance(operand, str)
    if name == "prefix":
        return both_text and here[: len(operand)] == operand
    if name == "suffix":
        return both_text and here[::-1][: len(operand)] == operand[::-1]
    if name == "contains":
        return both_text and here.find(operand) >= 0
    both_numbers = isinstance(here, int | float) and isinstance(operand, int | float)
    if not both_text and not both_numbers:
        return False
    if name in ("gt", "lte"):
        return bool(here > operand) is (name == "gt")
    return bool(here < operand) is (name == "lt")


def over_the_wire(value: Any) -> Any:
    """Return what the other side reads."""
    return json.loads(json.dumps(value))


def derived(kind: str, wanted: Any) -> str:
    """Return the id of a subscription for which the client has chosen none."""
    return SubscribeRequest(kind, compile_filters(wanted), {}).derive_id()
