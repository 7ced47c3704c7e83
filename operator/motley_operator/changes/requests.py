"""What desired pods will request of their nodes, before the API server has seen them.

The same sum as `facts` makes over a pod of the server; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from motley_operator.admission.quantities import read_quantity
from motley_operator.admission.resources import GPU_RESOURCES
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import Room
from motley_operator.translate.room import fits, minus

_GPUS = tuple(GPU_RESOURCES.values())


def pod_requests(pod: Mapping[str, Any]) -> Room:
    """Requests of a manifest: its containers and sidecars together, or its largest init container."""
    spec = pod["spec"]
    init = list(spec.get("initContainers") or ())
    sidecars = [c for c in init if c.get("restartPolicy") == "Always"]
    steady = _sum(_amounts(c) for c in [*spec["containers"], *sidecars])
    started: list[Mapping[str, Any]] = []
    for container in init:
        peak = _sum(_amounts(c) for c in [*started, container])
        steady = {name: max(steady[name], peak[name]) for name in steady}
        if container.get("restartPolicy") == "Always":
            started.append(container)
    return Room(
        gpus=int(steady["gpus"]),
        cpu_milli=_rounded_up(steady["cpu"] * 1000),
        memory_bytes=_rounded_up(steady["memory"]),
        ephemeral_bytes=_rounded_up(steady["ephemeral-storage"]),
        pods=1,
    )


def _amounts(container: Mapping[str, Any]) -> dict[str, Fraction]:
    resources = container.get("resources") or {}
    stated = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    found = {name: _number(stated.get(name)) for name in ("cpu", "memory", "ephemeral-storage")}
    return found | {"gpus": sum((_number(stated.get(name)) for name in _GPUS), Fraction(0))}


def _sum(amounts: Iterable[Mapping[str, Fraction]]) -> dict[str, Fraction]:
    total = dict.fromkeys(("cpu", "memory", "ephemeral-storage", "gpus"), Fraction(0))
    for each in amounts:
        for name in total:
            total[name] += each[name]
    return total


def _number(text: Any) -> Fraction:
    try:
        return read_quantity(text)
    except (ValueError, TypeError, ArithmeticError):
        return Fraction(0)  # the API server will say what is wrong with it


def _rounded_up(value: Fraction) -> int:
    return -int(-value // 1)


def pinned_node(manifest: Mapping[str, Any]) -> str | None:
    """The node that a pod of ours is pinned to; None where it waits for one that is to come."""
    affinity = manifest["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(term["matchFields"][0]["values"][0]) if "matchFields" in term else None


def room_after(manifests: Sequence[Manifest], left: Mapping[str, Room]) -> dict[str, Room] | None:
    """Room on the nodes concerned once these pods are there; None if they do not all fit."""
    after: dict[str, Room] = {}
    for manifest in manifests:
        node, need = pinned_node(manifest), pod_requests(manifest)
        if node is None:
            continue  # its node is asked for by making it
        room = after.get(node) or left.get(node)
        if room is None or not fits(need, room):
            return None
        after[node] = minus(room, need)
    return after
