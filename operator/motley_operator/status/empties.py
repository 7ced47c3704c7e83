"""Statuses without empty maps.

Server-side apply makes a map null once its last entry, which it knows as ours, is left out of an
empty one; null is then refused by the schema, and the whole status with it. A map that is left out
goes, as a list does that is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = frozenset((str, int, float, bool, type(None)))


def without_empty_maps(status: Mapping[str, Any]) -> dict[str, Any]:
    """The same without fields that are an empty map, at any depth."""
    kept = {}
    for name, value in status.items():
        # Most values are plain, and there are a hundred thousand of them on a large cluster.
        found = value if type(value) in _PLAIN else _pruned(value)
        if found != {}:
            kept[name] = found
    return kept


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_empty_maps(value)
    if isinstance(value, list | tuple):
        return [one if type(one) in _PLAIN else _pruned(one) for one in value]
    return value
