"""GPUs, nodes and node classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from motley_planner.domain.engines import EngineSpec, FrameworkSpec
from motley_planner.domain.fabric import Fabric
from motley_planner.domain.measurements import Learned, LearnedKey, Profile
from motley_planner.domain.models import ModelSpec


@dataclass(frozen=True, slots=True)
class NodeShapePrice:
    """What a cloud asks for one whole node; the label value of its instance type names it."""

    instance_type: str
    gpus: int
    price_usd_per_hour: float
    spot_price_usd_per_hour: float | None = None  # None: the cloud's list gives none

    def per_gpu_hour(self, *, spot: bool) -> float | None:
        """USD per GPU and hour, or None where no spot price is known."""
        whole = self.spot_price_usd_per_hour if spot else self.price_usd_per_hour
        return None if whole is None else whole / self.gpus


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
    compute_efficiency: float | None = None  # measured share of the 16-bit peak, where known
    memory_efficiency: float | None = None  # measured share of the bandwidth, where known
    link_gpus: int = 8  # GPUs that the link joins; beyond them traffic takes PCIe
    price_source: str = ""
    spot_price_source: str = ""
    driver_bytes: float | None = None  # memory as the driver reports it, where known
    node_shapes: tuple[NodeShapePrice, ...] = ()  # whole nodes that clouds sell with it

    def node_shape(self, instance_type: str | None) -> NodeShapePrice | None:
        """The node of an instance type, None where the catalog has no price for it."""
        return next((s for s in self.node_shapes if s.instance_type == instance_type), None)


@dataclass(frozen=True, slots=True)
class NodeClass:
    """What packs alike: nodes that differ in nothing a replica could notice but their size."""

    gpu: str
    zone: str
    capacity_type: str  # on-demand | spot | reserved
    trust_zone: str
    price_usd_per_gpu_hour: float
    excluded_for: frozenset[str] = frozenset()  # keys of resources that may not use it
    avoided_by: frozenset[str] = frozenset()  # keys that start nothing more there for now

    @property
    def id(self) -> str:
        """A stable name; two nodes of one class share it."""
        excluded = ",".join(sorted(self.excluded_for))
        parts = (self.zone, self.capacity_type, self.trust_zone)
        text = "|".join((*parts, f"{self.price_usd_per_gpu_hour:.4f}", excluded))
        return "|".join((text, *sorted(self.avoided_by))) if self.avoided_by else text


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
    coming: bool = False  # asked for and not there yet; such a node is cordoned as well
    bought: bool = False  # an autoscaler takes it back once it is empty
    # Bill of the whole node where billing is by node; None: its class's price for each of its GPUs.
    # 0 for owned nodes, or a stated shadow price.
    price_usd_per_hour: float | None = None

    @property
    def bill_usd_per_hour(self) -> float:
        """USD/h of the whole node while it is in use."""
        if self.price_usd_per_hour is not None:
            return self.price_usd_per_hour
        return self.total_gpus * self.node_class.price_usd_per_gpu_hour


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What real kernels and engines attain; fitted over measured rows, see catalog/fitted.toml.

    A GPU's own measured shares go before these where the fit did not see its generation.
    """

    factors: Mapping[str, float]  # by name: shares of peaks, times in the unit the name ends with
    pcie_network: Mapping[int, float]  # further factor where as many ranks share PCIe
    memory_from_kernels: float  # end-to-end share / kernel-level share of the bandwidth
    moe_prefill: float  # a lone prompt's prefill over the modeled one, mixtures of experts
    fitted_archs: tuple[str, ...]
    tpot_quantiles: Mapping[str, float]  # TPOT percentile / mean
    bands: Mapping[str, tuple[float, float]]  # measured / predicted TPOT, 80 % of unseen rows
    fitted_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def network(self) -> float:
        """Share of a link's rate that collectives and copies attain."""
        return self.factors["network"]


@dataclass(frozen=True, slots=True)
class LabelRefusal:
    """Why a node's GPU label names no GPU of the catalog."""

    label: str
    reason: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything the planner knows about products, by catalog id; see `motley_planner.catalog`."""

    gpus: Mapping[str, Gpu]
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    engines: Mapping[str, EngineSpec] = field(default_factory=dict)
    frameworks: Mapping[str, FrameworkSpec] = field(default_factory=dict)
    model_aliases: Mapping[str, str] = field(default_factory=dict)  # case-folded alias -> id
    labels: Mapping[str, str] = field(default_factory=dict)  # normalized label -> GPU id
    efficiency: Efficiency | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)  # by resource key; "": of all
    learned: Mapping[LearnedKey, Learned] = field(default_factory=dict)
    fabric: Fabric | None = None

    def model(self, model_id: str) -> ModelSpec | None:
        """The model of a Hugging Face id or alias, in any letter case; None if unknown."""
        return self.models.get(self.model_aliases.get(model_id.casefold(), model_id))

    def profile_of(self, key: str) -> Profile | None:
        """The measurements that hold for a resource: its own, else those given for all."""
        return self.profiles.get(key, self.profiles.get(""))

    def nearest_models(self, model_id: str, count: int = 3) -> tuple[str, ...]:
        """Known model ids that look most like an unknown one, best first."""
        known = {name.casefold(): name for name in self.models}
        known |= {alias: self.models[target].name for alias, target in self.model_aliases.items()}
        close = get_close_matches(model_id.casefold(), known, n=4 * count, cutoff=0.5)
        return tuple(dict.fromkeys(known[name] for name in close))[:count]

    def gpu_by_label(self, label: str) -> Gpu | LabelRefusal:
        """The GPU that a node label value (or a catalog id) names, or why there is none.

        Shared and partitioned GPUs are refused: a time slice has no memory of its own, and a MIG
        slice is another product. Names of old drivers, without "NVIDIA-", are accepted.
        """
        name = self.labels.get(normalized_label(label))
        if name is not None:
            return self.gpus[name]
        if label.endswith("-SHARED"):
            return LabelRefusal(label, "time-sliced GPUs are not planned: they share one memory")
        if "-MIG-" in label:
            return LabelRefusal(label, "MIG slices are not planned: only whole GPUs are")
        near = get_close_matches(normalized_label(label), self.labels, n=3, cutoff=0.6)
        nearest = tuple(dict.fromkeys(self.labels[name] for name in near))
        return LabelRefusal(label, "no GPU of the catalog has this product label", nearest)


def normalized_label(label: str) -> str:
    """A label value with case, blanks and the vendor prefix of newer drivers taken off."""
    return label.strip().replace(" ", "-").casefold().removeprefix("nvidia-")
