"""Which replica a row means: catalog entries for its names, and a layout for its sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from motley_planner.costs.dtypes import BLACKWELL, WEIGHT_BYTES
from motley_planner.costs.memory import usable_bytes
from motley_planner.costs.replica import Layout, Replica, replica_of
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Catalog, Gpu, LabelRefusal
from motley_planner.domain.models import ModelSpec
from motley_planner.prediction.rows import Configuration
from motley_planner.units import gigabytes

# System names of the measured rows (ai-dynamo/aiconfigurator), beside catalog ids and labels.
SYSTEMS = {
    "h100_sxm": "H100-SXM5-80GB",
    "h100_pcie": "H100-PCIE-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "b200_sxm": "B200-SXM-180GB",
    "b300_sxm": "B300-SXM-270GB",
    "gb200": "GB200",
    "gb200_sxm": "GB200",
    "gb300": "GB300",
    "gb300_sxm": "GB300",
    "a100_sxm": "A100-SXM4-80GB",
    "a100_pcie": "A100-PCIE-80GB",
    "l40s": "L40S",
    "l4": "L4",
    "rtx_pro_6000_server": "RTX-PRO-6000-SERVER",
    "mi300x": "MI300X",
    "mi325x": "MI325X",
    "mi355x": "MI355X",
}
BACKENDS = ("vllm", "sglang", "trtllm")
NARROW_KV_BYTES = 1.0
MEMORY_SHARE = 0.95  # who states a configuration tunes its memory; 0.90 would refuse measured rows
WIDEST_BESIDE_LINKS = 16  # two nodes of 8: the widest group that is measured across nodes
WIDEST_TENSOR_PARALLEL = 8  # beyond it, engines run attention data-parallel


@dataclass(frozen=True, slots=True)
class Setup:
    """A replica and the number of equal pipeline stages that its layers are cut into."""

    replica: Replica
    stages: int
    groups: int  # attention groups as the row counts them


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parallel sizes, read the way the row means them."""

    tensor_parallel: int
    layout: Layout


class Setups:
    """Setups by configuration, each worked out once: rows of one table share few of them."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._of = lru_cache(maxsize=4096)(self._build)

    def of(self, row: Configuration) -> Setup | str:
        """The setup of a row, or why it has none. Raises: nothing."""
        return self._of(replace(row, isl=1.0, osl=1.0, concurrency=1.0, prefix_hit_rate=0.0))

    def _build(self, row: Configuration) -> Setup | str:
        model = self.catalog.model(row.model)
        if model is None:
            near = ", ".join(self.catalog.nearest_models(row.model))
            return f"unknown model {row.model!r}" + (f"; nearest: {near}" if near else "")
        gpu = self.catalog.gpu_by_label(SYSTEMS.get(row.system.casefold(), row.system))
        if isinstance(gpu, LabelRefusal):
            near = ", ".join(gpu.nearest)
            return f"unknown system {row.system!r}" + (f"; nearest: {near}" if near else "")
        engine = engine_of(row.backend or "vllm", self.catalog)
        if isinstance(engine, str):
            return engine
        if row.precision not in WEIGHT_BYTES:
            known = ", ".join(WEIGHT_BYTES)
            return f"unsupported precision {row.precision!r}; use one of {known}"
        if row.pp_size > model.layers:
            return f"pp_size {row.pp_size} is more than the model's {model.layers} layers"
        return self._setup(row, model, gpu, engine)

    def _setup(
        self, row: Configuration, model: ModelSpec, gpu: Gpu, engine: EngineSpec
    ) -> Setup | str:
        efficiency = self.catalog.efficiency
        assert efficiency is not None, "load_catalog() always gives the factors"
        refusal = f"does not fit: {model.name} in {row.precision}"
        for sizes in readings(row, model):
            broken = unsplittable(model, gpu, sizes.tensor_parallel)
            if broken:
                refusal = f"unsupported: {broken}"
                continue
            built = replica_of(
                model,
                row.precision,
                gpu,
                sizes.tensor_parallel,
                engine,
                efficiency,
                layout=sizes.layout,
                kv_value_bytes=kv_value_bytes(row, gpu, engine),
            )
            if isinstance(built, str):
                return f"unsupported: {built}"
            if holds_a_token(built, row.pp_size):
                return Setup(built, row.pp_size, row.attention_dp)
            refusal = f"does not fit: {shortage(built, row)}"
        return refusal


def readings(row: Configuration, model: ModelSpec) -> list[Sizes]:
    """The layouts a row may mean, most likely first.

    Exports of benchmark databases write a group of g GPUs that runs attention and experts in
    different layouts as sizes whose product is g x g (tp 64 with moe_tp 8 and moe_ep 8 is one
    node of 8). Such a row means g GPUs, where the model fits there; else it is taken literally.
    """
    gpus = row.tp_size * row.attention_dp
    group = round(gpus**0.5)
    expert_tp, expert_parallel = max(1, row.moe_tp_size), max(1, row.moe_ep_size)
    squared = group > 1 and group * group == gpus == expert_tp * expert_parallel
    found = []
    if model.experts and squared and (expert_tp == expert_parallel or row.tp_size == group):
        spread = Layout(expert_parallel=group)
        if expert_tp == expert_parallel and row.attention_dp > 1:
            found.append(Sizes(1, replace(spread, attention_dp=group)))
        else:
            found.append(Sizes(group, spread))
    return [*found, _literal(row, model)]


def _literal(row: Configuration, model: ModelSpec) -> Sizes:
    gpus = row.tp_size * row.attention_dp
    if not model.experts:
        return Sizes(row.tp_size, Layout(row.attention_dp))
    if model.kv_lora_rank and row.tp_size > WIDEST_TENSOR_PARALLEL:
        return Sizes(1, Layout(gpus, 1, gpus))
    parallel = max(1, row.moe_ep_size)
    if gpus % parallel:
        parallel = 1
    return Sizes(row.tp_size, Layout(row.attention_dp, gpus // parallel, parallel))


def unsplittable(model: ModelSpec, gpu: Gpu, tensor_parallel: int) -> str:
    """Why no engine cuts a model's attention into so many parts; empty where engines do.

    Each GPU takes equally many heads; KV heads are dealt out evenly or copied to equally many GPUs.
    """
    widest = max(gpu.link_gpus, WIDEST_BESIDE_LINKS)
    if tensor_parallel > widest:
        return f"tp_size {tensor_parallel} is beyond the {widest} {gpu.name} that one group spans"
    if model.heads % tensor_parallel:
        return f"tp_size {tensor_parallel} does not divide the model's {model.heads} heads"
    kv_heads = model.kv_heads
    if not model.kv_lora_rank and kv_heads % tensor_parallel and tensor_parallel % kv_heads:
        return f"tp_size {tensor_parallel} cannot share out the model's {kv_heads} KV heads"
    return ""


def engine_of(backend: str, catalog: Catalog) -> EngineSpec | str:
    """The engine a row names, free of the precisions that Motley itself starts it with."""
    if backend not in BACKENDS and backend not in catalog.engines:
        return f"unknown backend {backend!r}; use one of {', '.join(BACKENDS)}"
    known = catalog.engines.get(backend)
    base = known or replace(catalog.engines["vllm"], name=backend, vendors=("nvidia",))
    if "serve" not in base.roles:
        return f"backend {backend!r} serves nothing; use one of {', '.join(BACKENDS)}"
    share = max(MEMORY_SHARE, base.memory_utilization)
    return replace(base, precisions=tuple(WEIGHT_BYTES), memory_utilization=share)


def kv_value_bytes(row: Configuration, gpu: Gpu, engine: EngineSpec) -> float:
    """Bytes of a cached value.

    Quantized models run with an 8-bit KV cache under TensorRT-LLM, and on Blackwell under every
    engine; measured rows show it in step time and in what fits.
    """
    narrow = row.precision in ("fp8", "fp4")
    if narrow and (engine.name == "trtllm" or gpu.arch in BLACKWELL):
        return NARROW_KV_BYTES
    return engine.kv_value_bytes


def holds_a_token(replica: Replica, stages: int) -> bool:
    """Whether the weights leave any memory for the KV cache."""
    return usable_bytes(replica.gpu, replica.engine, replica.gpus * stages) > replica.weight_bytes


def shortage(replica: Replica, row: Configuration) -> str:
    """What a model needs and what its GPUs have, in words."""
    gpus = replica.gpus * row.pp_size
    usable = usable_bytes(replica.gpu, replica.engine, gpus)
    return (
        f"{replica.model.name} needs {gigabytes(replica.weight_bytes)} for its {row.precision} "
        f"weights; {gpus} x {replica.gpu.name} has {gigabytes(usable)} for them"
    )
