"""GPUs, nodes and node classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU product of the catalog; rates are dense peaks, links are per direction."""

    name: str  # catalog id, e.g. "H100-SXM5-80GB"
    vendor: str  # nvidia | amd | intel
    arch: str
    hbm_bytes: float
    hbm_bytes_per_s: float
    flop_per_s: Mapping[str, float]  # by dtype: bf16, fp16, fp8, fp4, int8
    link_bytes_per_s: float  # 0: no NVLink / Infinity Fabric
    pcie_bytes_per_s: float
    price_usd_per_hour: float  # per GPU; on-demand, lowest list price of the catalog's source
    spot_price_usd_per_hour: float
    product_labels: tuple[str, ...]  # values of nvidia.com/gpu.product and its kin
    compute_efficiency: float | None = None  # measured share of the bf16 peak, where known
    memory_efficiency: float | None = None  # measured share of the bandwidth, where known


@dataclass(frozen=True, slots=True)
class NodeClass:
    """What packs alike: nodes that differ in nothing a replica could notice but their size."""

    gpu: str
    zone: str
    capacity_type: str  # on-demand | spot | reserved
    trust_zone: str
    price_usd_per_gpu_hour: float
    excluded_for: frozenset[str] = frozenset()  # keys of resources that may not use it

    @property
    def id(self) -> str:
        """A stable name; two nodes of one class share it."""
        excluded = ",".join(sorted(self.excluded_for))
        parts = (self.zone, self.capacity_type, self.trust_zone)
        return "|".join((*parts, f"{self.price_usd_per_gpu_hour:.4f}", excluded))


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the planner sees it: room left by everything that is not ours."""

    name: str
    node_class: NodeClass
    gpus: int  # free, or held by replicas of ours
    cpu_milli: int
    memory_bytes: int
    pods: int
    total_gpus: int
    cordoned: bool = False  # keep what runs, place nothing new


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything the planner knows about products, by catalog id; see `motley_planner.catalog`."""

    gpus: Mapping[str, Gpu]
    models: Mapping[str, object] = field(default_factory=dict)
    engines: Mapping[str, object] = field(default_factory=dict)
