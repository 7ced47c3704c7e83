"""Amounts of resources as Kubernetes writes and counts them, with none of Motley's code.

The judge of event logs (checker.py) counts by them what a pod takes of its node.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_SUFFIXES = {key: Decimal(10) ** power for key, power in _DECIMAL.items()}
_SUFFIXES |= {key: Decimal(2) ** power for key, power in _BINARY.items()}

Amounts = dict[str, Decimal]


def quantity(text: str | float) -> Decimal:
    """A Kubernetes quantity as a number: "500m" is 0.5, "2Gi" 2147483648, "1e3" 1000."""
    word = str(text)
    for length in (2, 1):
        factor = _SUFFIXES.get(word[-length:])
        if factor is not None and word[:-length]:
            return Decimal(word[:-length]) * factor
    return Decimal(word)


def requests_of(spec: Mapping[str, Any]) -> Amounts:
    """What the scheduler counts for a pod, by resource, and the pod itself.

    Containers and sidecars summed, or one init container's peak beside the sidecars started before
    it, whichever is more; and the overhead.
    """
    running: Amounts = {}
    peak: Amounts = {}
    for one in spec.get("initContainers", ()):
        wanted = _asked(one)
        if one.get("restartPolicy") == "Always":
            running = add(running, wanted)
        else:
            peak = most(peak, add(running, wanted))
    for one in spec.get("containers", ()):
        running = add(running, _asked(one))
    overhead = {key: quantity(one) for key, one in (spec.get("overhead") or {}).items()}
    return add(add(most(peak, running), overhead), {"pods": Decimal(1)})


def _asked(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {key: quantity(one) for key, one in both.items()}


def add(left: Amounts, right: Amounts) -> Amounts:
    """The sum of each resource."""
    return {key: left.get(key, Decimal(0)) + right.get(key, Decimal(0)) for key in {*left, *right}}


def most(left: Amounts, right: Amounts) -> Amounts:
    """The larger of each resource."""
    keys = {*left, *right}
    return {key: max(left.get(key, Decimal(0)), right.get(key, Decimal(0))) for key in keys}
