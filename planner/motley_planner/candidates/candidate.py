"""One replica configuration at one operating point, on one node class, or on one for each fragment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from motley_planner.candidates.point import OperatingPoint
from motley_planner.domain.fragments import ReplicaFragment, size_text
from motley_planner.domain.hardware import NodeClass
from motley_planner.domain.table import Phase


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
    # A pipeline: its fragments in the order of the layers, and the node class of each of them.
    # `node_class` and `tensor_parallel` are then the first one's. Empty: all fragments are alike.
    pipeline: tuple[ReplicaFragment, ...] = ()
    node_classes: tuple[NodeClass, ...] = ()
    phase: Phase = "both"
    kv_scale: float = 1.0  # bytes of a KV cache on the wire over bytes in memory
    nic_bytes_per_s: float | None = None  # what KV caches may take of the network, if they do
    provenance: str = "modeled"  # modeled | profiled | learned
    pool_steps: tuple[tuple[int, float], ...] = ()  # from as many equal ones on, capacity x factor
    # By class, of a replica that serves it alone at its capacity: see domain.table.Column.
    time_share: Mapping[str, float] = field(default_factory=dict)
    kv_share: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpu(self) -> str:
        """Catalog id of the GPUs (of a pipeline, of its first fragment)."""
        return self.node_class.gpu

    @property
    def gpus(self) -> int:
        """GPUs over all fragments."""
        return sum(ranks for _, ranks, _ in self.parts)

    @property
    def parts(self) -> tuple[tuple[NodeClass, int, int], ...]:
        """Node class, GPUs and layers of each fragment; layers 0 where they are not cut."""
        if not self.pipeline:
            return ((self.node_class, self.tensor_parallel, 0),) * self.fragments
        return tuple(
            (node_class, f.tensor_parallel, f.layers)
            for node_class, f in zip(self.node_classes, self.pipeline, strict=True)
        )


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
    pipeline: tuple[ReplicaFragment, ...] = ()
    phase: Phase = "both"
    kv_scale: float = 1.0
    nic_bytes_per_s: float | None = None
    variant: int = 1  # tells apart what one process may do at several operating points

    @property
    def size(self) -> str:
        """The replica's GPUs in short, as `size_text` writes them."""
        return size_text(self.tensor_parallel, self.fragments, self.pipeline)

    def at(
        self,
        node_class: NodeClass,
        batch: int,
        capacity: Mapping[str, float],
        ttft_s: Mapping[str, float],
        tpot_s: Mapping[str, float],
    ) -> Candidate:
        """The candidate of this shape on a node class, at an operating batch."""
        point = (batch, capacity, ttft_s, tpot_s)
        return self.on((node_class,) * max(1, len(self.pipeline)), point)

    def on(
        self,
        node_classes: Sequence[NodeClass],
        point: tuple[int, Mapping[str, float], Mapping[str, float], Mapping[str, float]],
    ) -> Candidate:
        """The candidate with each fragment of its pipeline on the node class of its place.

        `point`: operating batch, capacity, TTFT and TPOT by class.
        """
        batch, capacity, ttft_s, tpot_s = point
        first, where = node_classes[0], "+".join(dict.fromkeys(c.id for c in node_classes))
        kind = self.phase if self.kv_scale == 1.0 else f"{self.phase} kv{self.kv_scale:g}"
        kind = kind if self.variant == 1 else f"{kind} {self.variant}"
        price = self.tensor_parallel * self.fragments * first.price_usd_per_gpu_hour
        if self.pipeline:
            placed = zip(self.pipeline, node_classes, strict=True)
            price = sum(f.tensor_parallel * c.price_usd_per_gpu_hour for f, c in placed)
        return Candidate(
            id=f"{self.key}/{self.stage}|{kind}|{self.gpu}|{where}|{self.size}|b{batch}",
            key=self.key,
            stage=self.stage,
            role=self.role,
            column=self.column(batch),
            model=self.model,
            precision=self.precision,
            engine=self.engine,
            node_class=first,
            tensor_parallel=self.tensor_parallel,
            fragments=self.fragments,
            operating_batch=batch,
            capacity=capacity,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            price_usd_per_hour=price,
            pipeline=self.pipeline,
            node_classes=tuple(node_classes) if self.pipeline else (),
            phase=self.phase,
            kv_scale=self.kv_scale,
            nic_bytes_per_s=self.nic_bytes_per_s,
        )

    def column(self, batch: int) -> str:
        """Eight hex digits that name the configuration; zone, price and owner are not part of it."""
        parts: tuple[object, ...]
        parts = (self.model, self.precision, self.engine, self.gpu, self.tensor_parallel)
        parts = (*parts, self.fragments, batch, self.role)
        if self.pipeline:
            parts = (*parts, self.size)
        if self.phase != "both":
            parts = (*parts, self.phase, self.kv_scale)
        if self.variant != 1:
            parts = (*parts, self.variant)
        text = "|".join(str(part) for part in parts)
        return sha256(text.encode()).hexdigest()[:8]


def at_point(shape: Shape, node_classes: Sequence[NodeClass], point: OperatingPoint) -> Candidate:
    """The candidate of a shape at an operating point, with what larger pools of it may do."""
    made = shape.on(node_classes, (point.batch, point.capacity, point.ttft_s, point.tpot_s))
    return replace(
        made,
        provenance=point.provenance,
        pool_steps=point.pool_steps,
        time_share=point.time_share,
        kv_share=point.kv_share,
    )
