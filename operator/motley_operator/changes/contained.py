"""Whether an object on the cluster already has everything that is wanted of it.

The server adds defaults, status and other managers' fields; those do not count. Lists are compared
element by element, for the server keeps their order. What is wanted empty may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_contained(desired: Any, live: Any) -> bool:
    """True when applying `desired` would change nothing in `live`."""
    if isinstance(desired, str):  # most of it, and quicker than to ask what else it may be
        return desired == live or (not desired and live is None)
    if isinstance(desired, dict | Mapping):
        if not isinstance(live, dict | Mapping):
            return not desired and live is None
        return all(is_contained(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, list | tuple):
        if not isinstance(live, list | tuple):
            return not desired and live is None
        if len(desired) != len(live):
            return False
        return all(is_contained(d, have) for d, have in zip(desired, live, strict=True))
    if desired is None:
        return live in (None, "")
    return bool(desired == live)


def difference(desired: Any, live: Any) -> tuple[str | int, ...] | None:
    """Path of the first field in which `live` is not as desired; None where there is none.

    A path is of names and, in lists, indices; that of the whole is empty.
    """
    if is_contained(desired, live):
        return None
    if isinstance(desired, dict | Mapping) and isinstance(live, dict | Mapping):
        for key, value in desired.items():
            if (found := difference(value, live.get(key))) is not None:
                return (key, *found)
    if isinstance(desired, list | tuple) and isinstance(live, list | tuple):
        for index, pair in enumerate(zip(desired, live, strict=False)):
            if (found := difference(*pair)) is not None:
                return (index, *found)
    return ()
