"""Replicas that change their role while they run: their pods are told, and nothing else is done.

A pod that prefills and is planned to decode, or the other way, goes on as it is where what it was
started for differs in nothing but that; only then is its process the planned one. It is told before
the routing: what a gateway sends to a replica is what its pod says that it does, and whoever is
interrupted between the two reads the new role back and writes the routing that follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from motley_operator.changes.turns import PodName
from motley_operator.domain.actions import ChangeRole, Manifest
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import COLUMN, UNIT


def role_changes(
    desired: Mapping[PodName, Manifest], pods: Iterable[PodFacts]
) -> tuple[ChangeRole, ...]:
    """The pods that go on in another role than they say, by name."""
    found = []
    for pod in sorted(pods, key=lambda one: (one.namespace, one.name)):
        manifest = desired.get((pod.namespace, pod.name))
        if manifest is None or pod.terminal or pod.deleting:
            continue
        metadata = manifest["metadata"]
        wanted, said = metadata["annotations"][UNIT], pod.annotations.get(UNIT, "")
        if wanted != said and _is_flip(said, wanted):
            column = metadata["labels"][COLUMN]
            found.append(ChangeRole(pod.namespace, pod.name, pod.uid, column, wanted))
    return tuple(found)


def _is_flip(said: str, wanted: str) -> bool:
    """Whether two descriptions of a unit are those of one process in its two roles."""
    old, new = _read(said), _read(wanted)
    roles = old.pop("phase", "both"), new.pop("phase", "both")
    return set(roles) == {"prefill", "decode"} and old == new


def _read(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
