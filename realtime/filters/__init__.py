"""Filters on payloads: how clients write them, what they compile to, which match. Pure."""

from realtime.filters.clauses import (
    EVERYTHING,
    MAX_PATH_CHARACTERS,
    MISSING,
    Filter,
    Path,
    PathError,
    decode_or_none,
    lookup,
    lookup_key,
    matches,
    read_path,
)
from realtime.filters.compiler import (
    OPERATORS,
    OR,
    FilterError,
    compile_filters,
    conjunction,
    derive_subscription_id,
    parse_filter_options,
)

__all__ = [
    "EVERYTHING",
    "MAX_PATH_CHARACTERS",
    "MISSING",
    "OPERATORS",
    "OR",
    "Filter",
    "FilterError",
    "Path",
    "PathError",
    "compile_filters",
    "conjunction",
    "decode_or_none",
    "derive_subscription_id",
    "lookup",
    "lookup_key",
    "matches",
    "parse_filter_options",
    "read_path",
]
