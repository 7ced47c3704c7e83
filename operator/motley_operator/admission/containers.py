"""Containers of a pod, and what they and the pod request and are limited to, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from motley_operator.admission.quantities import milli, whole

POD_LEVEL = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class Container:
    """One container's resources, by name; CPU in milli-cores."""

    name: str
    requests: Mapping[str, int]
    limits: Mapping[str, int]
    init: bool = False
    sidecar: bool = False


@dataclass(frozen=True, slots=True)
class Sized:
    """A pod as admission sees it: its containers, and what is set for the whole pod."""

    containers: tuple[Container, ...]
    requests: Mapping[str, int]  # set for the whole pod
    limits: Mapping[str, int]
    overhead: Mapping[str, int]

    def with_containers(self, containers: Iterable[Container]) -> Sized:
        """The same pod with other resources of its containers."""
        return replace(self, containers=tuple(containers))

    @property
    def all_requests(self) -> dict[str, int]:
        """What the pod requests.

        max(sum of containers and sidecars, each init container with the sidecars before it) +
        overhead; what is set for the whole pod wins. Source: KEP-753, KEP-2837.
        """
        total = self._total([c.requests for c in self.containers], self.requests)
        _add(total, self.overhead)
        return total

    @property
    def all_limits(self) -> dict[str, int]:
        """What the pod is limited to: the same sum of limits, of what has any."""
        total = self._total([c.limits for c in self.containers], self.limits)
        _add(total, {name: more for name, more in self.overhead.items() if name in total})
        return total

    def _total(
        self, amounts: Sequence[Mapping[str, int]], stated: Mapping[str, int]
    ) -> dict[str, int]:
        steady: dict[str, int] = {}
        peak: dict[str, int] = {}
        before: dict[str, int] = {}
        for container, mine in zip(self.containers, amounts, strict=True):
            if not container.init or container.sidecar:
                _add(steady, mine)
            if container.init:
                here = dict(before)
                _add(here, mine)
                peak = {n: max(peak.get(n, 0), here.get(n, 0)) for n in {*peak, *here}}
                before = here if container.sidecar else before
        total = {n: max(steady.get(n, 0), peak.get(n, 0)) for n in {*steady, *peak}}
        return total | {name: stated[name] for name in POD_LEVEL if name in stated}


def sized(spec: Mapping[str, Any]) -> Sized:
    """A pod's spec as admission sees it; a request that is not set is the limit."""
    resources = spec.get("resources") or {}
    init = [_container(c, init=True) for c in spec.get("initContainers") or ()]
    limits = numbers(resources.get("limits"))
    return Sized(
        containers=(*init, *(_container(c) for c in spec.get("containers") or ())),
        requests={**limits, **numbers(resources.get("requests"))},
        limits=limits,
        overhead=numbers(spec.get("overhead")),
    )


def numbers(amounts: Mapping[str, Any] | None) -> dict[str, int]:
    """A resource list as numbers: CPU in milli-cores, the rest in units, rounded up."""
    return {name: number(name, text) for name, text in (amounts or {}).items()}


def number(name: str, text: str | float | None) -> int:
    """An amount of a resource; "cpu", "requests.cpu" and "limits.cpu" in milli-cores."""
    return milli(text) if name.rpartition(".")[2] == "cpu" else whole(text)


def _container(container: Mapping[str, Any], init: bool = False) -> Container:
    resources = container.get("resources") or {}
    limits = numbers(resources.get("limits"))
    requests = {**limits, **numbers(resources.get("requests"))}
    sidecar = init and container.get("restartPolicy") == "Always"
    return Container(str(container.get("name") or ""), requests, limits, init, sidecar)


def _add(total: dict[str, int], amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + amount
