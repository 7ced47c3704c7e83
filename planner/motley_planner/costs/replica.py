"""One replica of a model on equal GPUs: everything its step times depend on, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.costs.dtypes import ExecutionPath, execution_path
from motley_planner.costs.memory import kv_replication, usable_bytes
from motley_planner.costs.parameters import active_parameters, parameter_count
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Efficiency, Gpu
from motley_planner.domain.models import ModelSpec

_BLACKWELL = ("sm100", "sm103", "sm120")


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on `tensor_parallel` GPUs with attained (not peak) rates of one GPU."""

    model: ModelSpec
    gpu: Gpu
    engine: EngineSpec
    tensor_parallel: int
    path: ExecutionPath
    efficiency: Efficiency
    linear_flop_per_s: float
    attention_flop_per_s: float
    weight_bytes_per_s: float
    kv_bytes_per_s: float
    link_bytes_per_s: float
    active_parameters: float
    weight_bytes: float
    kv_replication: float
    kv_value_bytes: float

    @property
    def free_bytes(self) -> float:
        """Bytes left for the KV cache over all ranks; negative if the weights do not fit."""
        return usable_bytes(self.gpu, self.engine, self.tensor_parallel) - self.weight_bytes


def replica_of(
    model: ModelSpec,
    precision: str,
    gpu: Gpu,
    tensor_parallel: int,
    engine: EngineSpec,
    efficiency: Efficiency,
) -> Replica | str:
    """The replica, or why this GPU or engine cannot run the model at that precision.

    Six parameters: each names one independent choice, and every caller has all of them.
    """
    refusal = _unsupported(precision, gpu, engine)
    if refusal:
        return refusal
    path = execution_path(gpu, model, precision)
    if isinstance(path, str):
        return path
    wide = gpu.flop_per_s.get("bf16", gpu.flop_per_s["fp16"])
    return Replica(
        model=model,
        gpu=gpu,
        engine=engine,
        tensor_parallel=tensor_parallel,
        path=path,
        efficiency=efficiency,
        linear_flop_per_s=gpu.flop_per_s[path.compute_dtype]
        * compute_share(gpu, path.compute_dtype, model, efficiency),
        attention_flop_per_s=wide
        * efficiency.attention_compute
        * compute_share(gpu, "bf16", None, efficiency)
        / efficiency.compute["bf16"],
        weight_bytes_per_s=gpu.hbm_bytes_per_s * memory_share(gpu, model, efficiency),
        kv_bytes_per_s=gpu.hbm_bytes_per_s * efficiency.kv_memory,
        link_bytes_per_s=link_rate(gpu, tensor_parallel, efficiency),
        active_parameters=active_parameters(model),
        weight_bytes=parameter_count(model) * path.weight_bytes,
        kv_replication=kv_replication(model, tensor_parallel),
        kv_value_bytes=engine.kv_value_bytes,
    )


def compute_share(gpu: Gpu, dtype: str, model: ModelSpec | None, efficiency: Efficiency) -> float:
    """Share of the peak that large matrix multiplications attain, 0..1.

    GPUs of the fitted generations take the end-to-end fit, unless their own file derates them
    below it by more than a tenth (power-limited cards); others scale it by their measured share.
    """
    fitted = efficiency.compute[dtype]
    if gpu.arch in _BLACKWELL:
        fitted *= efficiency.blackwell_compute
    own = gpu.compute_efficiency
    if own is not None and (gpu.arch not in efficiency.fitted_archs or own < 0.7):
        fitted = efficiency.compute[dtype] / efficiency.compute["bf16"] * own
    if model is not None and model.experts:
        fitted *= efficiency.moe_compute
    return fitted


def memory_share(gpu: Gpu, model: ModelSpec, efficiency: Efficiency) -> float:
    """Share of the bandwidth that reading weights attains, 0..1."""
    share = efficiency.blackwell_memory if gpu.arch in _BLACKWELL else efficiency.memory
    if gpu.arch not in efficiency.fitted_archs and gpu.memory_efficiency is not None:
        share = gpu.memory_efficiency * efficiency.memory_from_kernels
    return share * efficiency.moe_memory if model.experts else share


def link_rate(gpu: Gpu, ranks: int, efficiency: Efficiency) -> float:
    """Bytes/s per direction that collectives over `ranks` GPUs of one node attain."""
    if gpu.link_bytes_per_s > 0 and ranks <= gpu.link_gpus:
        return gpu.link_bytes_per_s * efficiency.network
    return gpu.pcie_bytes_per_s * efficiency.network * efficiency.pcie_network


def _unsupported(precision: str, gpu: Gpu, engine: EngineSpec) -> str:
    if gpu.vendor not in engine.vendors:
        return f"engine {engine.name} does not run on {gpu.vendor} GPUs"
    if gpu.arch in engine.unsupported_archs:
        return f"engine {engine.name} does not run on {gpu.name} ({gpu.arch})"
    if precision not in engine.precisions:
        return f"engine {engine.name} does not run {precision} models"
    return ""
