"""Who wrote a field of an object, as the API server keeps it in `metadata.managedFields`.

Source: Kubernetes, "Server-Side Apply"; fieldsV1 names fields `f:<name>`, items of keyed lists
`k:<their keys>`, values of sets `v:<value>` and items of other lists `i:<index>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from motley_operator.domain.facts import Document

Step = str | int  # a field's name, or an index of a list


def managers_of(live: Document, path: Sequence[Step]) -> tuple[str, ...]:
    """Names of the managers that hold the field, or part of it, in the order in which they are listed.

    `path` leads through the object as it is. Only those count that the document still has: our own
    were left out when it was read.
    """
    rows = live["metadata"].get("managedFields") or ()
    found = (str(row.get("manager")) for row in rows if _holds(row.get("fieldsV1"), live, path))
    return tuple(dict.fromkeys(found))


def _holds(fields: Any, at: Any, path: Sequence[Step]) -> bool:
    if not path:
        return fields is not None
    if not isinstance(fields, Mapping):
        return False
    if not fields:
        return True  # held as a whole, with all that is below
    step, below = path[0], _below(at, path[0])
    return any(
        _is_step(key, step, below) and _holds(inner, below, path[1:])
        for key, inner in fields.items()
    )


def _below(at: Any, step: Step) -> Any:
    if isinstance(at, Mapping):
        return at.get(step)
    is_item = isinstance(at, list) and isinstance(step, int) and step < len(at)
    return at[step] if is_item else None


def _is_step(key: str, step: Step, item: Any) -> bool:
    """Whether a key of fieldsV1 is this field, or this item of a list."""
    kind, _, name = key.partition(":")
    if isinstance(step, str):
        return kind == "f" and name == step
    if kind == "i":
        return name == str(step)
    try:
        told = json.loads(name)
    except ValueError:
        return False
    if kind == "k" and isinstance(told, Mapping) and isinstance(item, Mapping):
        return all(item.get(field) == value for field, value in told.items())
    return bool(kind == "v" and told == item)
