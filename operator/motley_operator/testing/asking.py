"""An operator that asks an autoscaler for nodes by ProvisioningRequests."""

from __future__ import annotations

from typing import Any

from motley_operator.domain.purchases import REQUEST, TEMPLATE
from motley_operator.testing.operated import Operated
from motley_operator.testing.scheduling import schedule

LABELS = {"pool": "gpu"}  # of the nodes that it buys
_H100 = "NVIDIA-H100-80GB-HBM3"
Document = dict[str, Any]


def _fleet(**changes: Any) -> Document:
    shape = {
        "name": "p5",
        "gpuProduct": _H100,
        "gpus": 2,
        "cpu": "64",
        "memory": "512Gi",
        "dollarsPerHour": "12",
        "maxNodes": 4,
        "labels": LABELS,
        "provision": REQUEST,
        **changes,
    }
    prices = {"gpus": [{"gpu": _H100, "dollarsPerHour": "1"}]}
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": {"shapes": [shape], "prices": prices},
    }


class Asking(Operated):
    """Two owned GPUs, and an autoscaler that takes requests."""

    def __init__(self, served: bool = True, **shape: Any) -> None:
        super().__init__(nodes=1)
        self.world.fleet = _fleet(**shape)
        self.world.served = frozenset({REQUEST}) if served else frozenset()

    def steps(self, count: int = 3) -> None:
        """Cycles, five seconds apart, with a scheduler in between."""
        for _ in range(count):
            self.cycle()
            self.world.settle()
            schedule(self.world)
            self.world.now += 5.0

    def owned(self, kind: str) -> dict[str, Document]:
        """Objects of a kind that the operator has made, by name."""
        return {name: one for (k, _, name), one in self.world.owned.items() if k == kind}

    def answer(self, name: str, kind: str, message: str = "") -> None:
        """The autoscaler's condition on a request."""
        rows = self.owned(REQUEST)[name].setdefault("status", {}).setdefault("conditions", [])
        rows.append({"type": kind, "status": "True", "reason": kind, "message": message})

    def fleet_says(self) -> tuple[str, str]:
        """Reason and message of the Fleet's condition Provisioned."""
        assert self.world.fleet is not None
        rows = self.world.fleet["status"]["conditions"]
        row = next(c for c in rows if c["type"] == "Provisioned")
        return row["reason"], row["message"]

    def asked_gpus(self) -> int:
        """GPUs that the templates of all requests ask for, times their counts."""
        templates, total = self.owned(TEMPLATE), 0
        for request in self.owned(REQUEST).values():
            for each in request["spec"]["podSets"]:
                spec = templates[each["podTemplateRef"]["name"]]["template"]["spec"]
                limits = [c["resources"]["limits"] for c in spec["containers"]]
                total += each["count"] * sum(x["nvidia.com/gpu"] for x in limits)
        return total
