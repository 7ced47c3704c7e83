"""Budgets that hold at every moment, also while replicas are replaced: what is covered, what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from motley_operator.domain.claims import CLAIM, is_coming, node_of, shape_of
from motley_operator.domain.names import UNIT

_Texts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Amount:
    """Money and GPUs that something takes."""

    usd_per_hour: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd_per_hour + other.usd_per_hour, self.gpus + other.gpus)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.usd_per_hour - other.usd_per_hour, self.gpus - other.gpus)

    def or_more(self, other: Amount) -> Amount:
        """The larger of each."""
        return Amount(max(self.usd_per_hour, other.usd_per_hour), max(self.gpus, other.gpus))

    def within(self, most: Amount) -> bool:
        """Whether neither is above; prices are sums of floats."""
        slack = 1e-6 * max(1.0, abs(self.usd_per_hour))
        return self.usd_per_hour <= most.usd_per_hour + slack and self.gpus <= most.gpus


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that live pods may take at any moment; of one resource, or (key "") of all."""

    key: str = ""
    most: Amount = Amount(math.inf, math.inf)

    def covers(self, key: str) -> bool:
        """Whether pods of the resource count."""
        return self.key in ("", key)


@dataclass(frozen=True, slots=True)
class Budgets:
    """The limits, and prices in USD per GPU and hour."""

    limits: tuple[Limit, ...] = ()
    by_node: Mapping[str, float] = field(default_factory=dict)
    by_shape: Mapping[str, float] = field(default_factory=dict)  # of nodes that may be bought
    by_gpu: Mapping[str, float] = field(default_factory=dict)  # where the node is not known

    def amount(self, node: str | None, gpus: int, gpu: str = "") -> Amount:
        """What so many GPUs of a node take; `gpu` is their catalog id."""
        each = self._each(node)
        return Amount(gpus * (self.by_gpu.get(gpu, 0.0) if each is None else each), gpus)

    def of_pod(self, node: str | None, gpus: int, labels: _Texts, annotations: _Texts) -> Amount:
        """What a pod with these labels and annotations takes; its claim is its node until it has one."""
        if node is None and CLAIM in labels:
            node = node_of(labels[CLAIM])
        each = self._each(node)
        return self.amount(node, gpus, _gpu(annotations) if each is None else "")

    def _each(self, node: str | None) -> float | None:
        if node is not None and is_coming(node) and shape_of(node) in self.by_shape:
            return self.by_shape[shape_of(node)]
        return self.by_node.get(node or "")

    def over(self, taken: Mapping[str, Amount]) -> dict[Limit, Amount]:
        """What counts of each limit, given what each resource takes."""
        everything = sum(taken.values(), Amount())
        return {
            limit: taken.get(limit.key, Amount()) if limit.key else everything
            for limit in self.limits
        }


NO_BUDGETS = Budgets()


def _gpu(annotations: _Texts) -> str:
    """The catalog id that a pod of ours says it was made for; empty where that was damaged."""
    try:
        unit = json.loads(annotations.get(UNIT, ""))
    except ValueError:
        return ""
    found = unit.get("gpu") if isinstance(unit, dict) else None
    return found if isinstance(found, str) else ""
