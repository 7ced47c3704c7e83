"""Statuses without empty maps and lists.

Server-side apply makes a map or list null once its last entry, which it knows as ours, is left out
of an empty one; null is then refused by the schema, and the whole status with it. A field that is
left out goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_empties(status: Mapping[str, Any]) -> dict[str, Any]:
    """The same without fields that are null, an empty map or an empty list, at any depth."""
    kept = {name: _pruned(value) for name, value in status.items()}
    return {name: value for name, value in kept.items() if value not in (None, [], {})}


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_empties(value)
    if isinstance(value, list | tuple):
        return [_pruned(one) for one in value]
    return value
