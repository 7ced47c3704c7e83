"""One replica of a model on equal GPUs: everything its step times depend on, worked out once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from motley_planner.costs.dtypes import ExecutionPath, execution_path
from motley_planner.costs.memory import (
    adapter_bytes,
    kv_replication,
    split_weight_bytes,
    usable_bytes,
)
from motley_planner.costs.parameters import (
    active_parameters,
    always_read_parameters,
    routed_parameters,
)
from motley_planner.costs.rates import Rates, Term, link_term, rate_terms, rates_of
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Efficiency, Gpu
from motley_planner.domain.models import ModelSpec


@dataclass(frozen=True, slots=True)
class Layout:
    """How a replica spreads attention and experts over its GPUs, beside tensor parallelism.

    `attention_dp` groups of tensor-parallel GPUs each run attention and dense layers for their own
    sequences; experts are cut `expert_tp` ways and dealt over `expert_parallel` groups. Zero stands
    for "as many as there are GPUs" (`expert_tp`).
    """

    attention_dp: int = 1
    expert_tp: int = 0
    expert_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on `tensor_parallel` x `layout.attention_dp` GPUs, with attained (not peak) rates.

    `engine` holds the overheads that this engine has with this model.
    """

    model: ModelSpec
    gpu: Gpu
    engine: EngineSpec
    tensor_parallel: int
    path: ExecutionPath
    efficiency: Efficiency
    rates: Rates
    active_parameters: float
    weight_bytes: float
    kv_replication: float
    kv_value_bytes: float
    layout: Layout = Layout()
    # Parameters, counted once: all but routed experts and lm_head; lm_head; all routed experts.
    dense_parameters: float = 0.0
    head_parameters: float = 0.0
    routed_parameters: float = 0.0

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.tensor_parallel * self.layout.attention_dp

    @property
    def expert_ranks(self) -> float:
        """GPUs that one copy of the experts is spread over."""
        return self.gpus / expert_copies(self.gpus, self.layout)

    @property
    def free_bytes(self) -> float:
        """Bytes left for the KV cache over all ranks; negative if the weights do not fit."""
        return usable_bytes(self.gpu, self.engine, self.gpus) - self.weight_bytes


def replica_of(
    model: ModelSpec,
    precision: str,
    gpu: Gpu,
    tensor_parallel: int,
    engine: EngineSpec,
    efficiency: Efficiency,
    *,
    layout: Layout = Layout(),
    kv_value_bytes: float | None = None,
) -> Replica | str:
    """The replica, or why this GPU or engine cannot run the model at that precision.

    Six parameters: each names one independent choice, and every caller has all of them.
    `kv_value_bytes` stands in for the engine's default, where the KV cache is quantized.
    """
    refusal = _unsupported(precision, gpu, engine)
    if refusal:
        return refusal
    path = execution_path(gpu, model, precision)
    if isinstance(path, str):
        return path
    terms = rate_terms(model, gpu, path, engine, efficiency)
    terms |= spread_terms(gpu, tensor_parallel, layout, efficiency)
    rates = rates_of(terms, efficiency.factors)
    shared, experts = split_weight_bytes(model, path)
    ranks = tensor_parallel * layout.attention_dp
    return Replica(
        model=model,
        gpu=gpu,
        engine=replace(engine, layer_overhead_s=rates.layer_s, step_overhead_s=rates.step_s),
        tensor_parallel=tensor_parallel,
        path=path,
        efficiency=efficiency,
        rates=rates,
        active_parameters=active_parameters(model),
        weight_bytes=shared * layout.attention_dp
        + experts * expert_copies(ranks, layout)
        + adapter_bytes(model, tensor_parallel) * layout.attention_dp,
        kv_replication=kv_replication(model, tensor_parallel),
        kv_value_bytes=kv_value_bytes or engine.kv_value_bytes,
        layout=layout,
        dense_parameters=always_read_parameters(model) - model.vocabulary * model.hidden,
        head_parameters=float(model.vocabulary * model.hidden),
        routed_parameters=routed_parameters(model),
    )


def expert_copies(gpus: int, layout: Layout) -> float:
    """Copies of the routed experts that `gpus` GPUs hold; 1 where they are spread over all."""
    if not layout.expert_tp:
        return 1.0
    return max(1.0, gpus / (layout.expert_tp * layout.expert_parallel))


def spread_terms(
    gpu: Gpu, tensor_parallel: int, layout: Layout, efficiency: Efficiency
) -> dict[str, Term]:
    """The rates that depend on how a replica is spread over GPUs."""
    uneven = ("experts.imbalance",) if layout.expert_parallel > 1 else ()
    ranks = tensor_parallel * layout.attention_dp
    return {
        "link_bytes_per_s": link_term(gpu, ranks, efficiency),
        "expert_imbalance": Term(1.0, uneven),
        "first_groups": Term(1.0, ("first.groups",) if layout.attention_dp > 1 else ()),
    }


def _unsupported(precision: str, gpu: Gpu, engine: EngineSpec) -> str:
    if gpu.vendor not in engine.vendors:
        return f"engine {engine.name} does not run on {gpu.vendor} GPUs"
    if gpu.arch in engine.unsupported_archs:
        return f"engine {engine.name} does not run on {gpu.name} ({gpu.arch})"
    if precision not in engine.precisions:
        return f"engine {engine.name} does not run {precision} models"
    return ""
