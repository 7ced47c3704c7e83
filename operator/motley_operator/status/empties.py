"""Statuses without empty maps.

Server-side apply makes a map null once its last entry, which it knows as ours, is left out of an
empty one; null is then refused by the schema, and the whole status with it. A map that is left out
goes, as a list does that is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_empty_maps(status: Mapping[str, Any]) -> dict[str, Any]:
    """The same without fields that are an empty map, at any depth."""
    kept = {name: _pruned(value) for name, value in status.items()}
    return {name: value for name, value in kept.items() if value != {}}


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_empty_maps(value)
    if isinstance(value, list | tuple):
        return [_pruned(one) for one in value]
    return value
