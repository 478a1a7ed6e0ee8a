"""The option ``fields``: the wanted parts of a payload. Pure. Knows nothing of subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from realtime.filters import Path

# The steps of wanted paths, nested; ``None`` is everything below: "a" and "b.c" are
# {"a": None, "b": {"c": None}}.
FieldTree = dict[str, Any]

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def field_tree(paths: Iterable[Path]) -> FieldTree:
    """Return paths as a tree. Where an object and a part of it are wanted, the object is."""
    tree: FieldTree = {}
    for path in sorted(paths, key=len):
        node: Any = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
            if node is None:
                break
        else:
            node[path[-1]] = None
    return tree


def project(payload: bytes, tree: FieldTree) -> bytes:
    """Return the wanted parts of a payload (JSON text), their values byte for byte as published.

    What cannot be decoded here has no parts, just as no filter matches it.
    """
    try:
        return msgspec.json.encode(_project(payload, tree))
    except (RecursionError, ValueError):
        return b"{}"


def _project(payload: bytes | msgspec.Raw, tree: FieldTree) -> dict[str, Any]:
    values = _decode_object(payload)
    parts: dict[str, Any] = {}
    for step, below in tree.items():
        value = values.get(step)
        if value is None:
            continue
        if below is None:
            parts[step] = value
        elif bytes(value).startswith(b"{") and (part := _project(value, below)):
            parts[step] = part
    return parts
