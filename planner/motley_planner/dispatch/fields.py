"""The kinds of fields that a routing document has, and the error that names a wrong one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from motley_planner.errors import PlannerError


class RoutingError(PlannerError):
    """A routing document that no gateway may run: `field` says where, `rule` what it breaks."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field, self.rule = field, rule


def mapping(value: object, at: str) -> Mapping[str, Any]:
    """A JSON object. Raises: RoutingError."""
    if not isinstance(value, Mapping):
        raise RoutingError(at, "must be an object")
    return value


def items(value: object, at: str, least: int = 0) -> Sequence[Any]:
    """A list of at least so many. Raises: RoutingError."""
    if not isinstance(value, list) or len(value) < least:
        raise RoutingError(at, f"must be a list of at least {least}" if least else "must be a list")
    return value


def text(value: object, at: str) -> str:
    """A string that is not empty. Raises: RoutingError."""
    if not isinstance(value, str) or not value:
        raise RoutingError(at, "must be a non-empty string")
    return value


def token(value: object, at: str) -> str:
    """A text that can stand in an HTTP header's list: printable ASCII, no space, no comma."""
    found = text(value, at)
    if not found.isascii() or not found.isprintable() or set(found) & {" ", ",", ":"}:
        raise RoutingError(at, f"must be printable ASCII without space, comma, colon, is {found!r}")
    return found


def number(value: object, at: str) -> float:
    """A finite number that is not negative. Raises: RoutingError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RoutingError(at, "must be a number")
    if not math.isfinite(value) or value < 0:
        raise RoutingError(at, f"must be finite and not negative, is {value!r}")
    return float(value)


def unique(names: Sequence[str], at: str) -> frozenset[str]:
    """The names as a set. Raises: RoutingError where one appears twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RoutingError(at, f"name {name!r} appears twice")
        seen.add(name)
    return frozenset(seen)
