"""One replica configuration at one operating point, on one node class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from motley_planner.domain.hardware import NodeClass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a replica would be, what it could serve, and what it would cost.

    `ttft_s` and `tpot_s` are predicted means by class, beside the worst mix of the classes in
    `capacity`; that is why capacities may be added up.
    """

    id: str  # "<key>/<stage>|both|<gpu>|<node class>|tp4|b64"
    key: str
    stage: str
    role: str  # serve | rollout | trainer
    column: str  # short hash of the configuration, without zone or price
    model: str
    precision: str
    engine: str
    node_class: NodeClass
    tensor_parallel: int
    fragments: int  # nodes the replica spans, `tensor_parallel` GPUs on each
    operating_batch: int
    capacity: Mapping[str, float]  # requests/s (jobs: steps/s) by class, if it served only that
    ttft_s: Mapping[str, float]
    tpot_s: Mapping[str, float]
    price_usd_per_hour: float

    @property
    def gpu(self) -> str:
        """Catalog id of the GPUs."""
        return self.node_class.gpu

    @property
    def gpus(self) -> int:
        """GPUs over all fragments."""
        return self.tensor_parallel * self.fragments


@dataclass(frozen=True, slots=True)
class Shape:
    """What the replicas of one column have in common, whatever node class they are on."""

    key: str
    stage: str
    role: str
    model: str
    precision: str
    engine: str
    gpu: str
    tensor_parallel: int
    fragments: int = 1

    def at(
        self,
        node_class: NodeClass,
        batch: int,
        capacity: Mapping[str, float],
        ttft_s: Mapping[str, float],
        tpot_s: Mapping[str, float],
    ) -> Candidate:
        """The candidate of this shape on a node class, at an operating batch."""
        size = f"tp{self.tensor_parallel}" + (f"x{self.fragments}" if self.fragments > 1 else "")
        gpus = self.tensor_parallel * self.fragments
        return Candidate(
            id=f"{self.key}/{self.stage}|both|{self.gpu}|{node_class.id}|{size}|b{batch}",
            key=self.key,
            stage=self.stage,
            role=self.role,
            column=self.column(batch),
            model=self.model,
            precision=self.precision,
            engine=self.engine,
            node_class=node_class,
            tensor_parallel=self.tensor_parallel,
            fragments=self.fragments,
            operating_batch=batch,
            capacity=capacity,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            price_usd_per_hour=gpus * node_class.price_usd_per_gpu_hour,
        )

    def column(self, batch: int) -> str:
        """Eight hex digits that name the configuration; zone, price and owner are not part of it."""
        parts = (self.model, self.precision, self.engine, self.gpu, self.tensor_parallel)
        text = "|".join(str(part) for part in (*parts, self.fragments, batch, self.role))
        return sha256(text.encode()).hexdigest()[:8]
