"""Attained rates of one GPU and engine: datasheet peaks times named, fitted factors.

A rate is `base x factor x factor ...`. The base is a datasheet number (or 1 for a time that the fit
gives outright); the factors are those of catalog/fitted.toml. Which factors apply to a replica is
decided here, once: the planner multiplies them, and the fit reads the same names as its unknowns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motley_planner.costs.dtypes import BLACKWELL, WEIGHT_BYTES, ExecutionPath
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Efficiency, Gpu
from motley_planner.domain.models import ModelSpec
from motley_planner.units import MICRO, MILLI

FAMILIES = {"fp16": "bf16", "int8": "fp8"}  # dtypes that share the factors of another
FITTED_ENGINES = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True, slots=True)
class Term:
    """One rate before the factors are known."""

    base: float
    factors: tuple[str, ...] = ()

    def value(self, factors: Mapping[str, float]) -> float:
        """base x the product of the named factors. Raises: KeyError for a factor nobody fitted."""
        value = self.base
        for name in self.factors:
            value *= factors[name]
        return value


@dataclass(frozen=True, slots=True)
class Rates:
    """What one GPU attains; per second, or seconds a time."""

    dense_flop_per_s: float
    dense_bytes_per_s: float
    head_flop_per_s: float
    head_bytes_per_s: float
    expert_flop_per_s: float
    expert_bytes_per_s: float
    expert_imbalance: float  # time of the busiest GPU over the mean, where experts are dealt out
    kv_bytes_per_s: float
    attention_flop_per_s: float
    link_bytes_per_s: float
    message_s: float  # latency of one collective of two ranks
    message_ramp_s: float  # further latency of a collective of megabytes over eight ranks
    layer_s: float  # launches and host work of one layer, as this model has them
    step_s: float
    sequence_s: float  # host work for one sequence in one decode step
    prefill_overhead: float  # share of the layer times that one prompt adds to a running batch
    interference: float  # measured over modeled time that prompts take from a running batch
    first_s: float  # of a first token beside compute: request handling
    first_layer_s: float  # launches of one layer in a prefill, which runs outside CUDA graphs
    first_prefill: float  # measured over modeled prefill of a lone prompt
    first_groups: float  # the same again where attention runs in data-parallel groups
    queue: float  # a first token among n others takes 1 + queue x n^queue_power prefills
    queue_power: float


def rates_of(terms: Mapping[str, Term], factors: Mapping[str, float]) -> Rates:
    """The rates, with every factor multiplied in; times of a layer are added up."""
    found = {name: term.value(factors) for name, term in terms.items()}
    layer = sum(found.pop(name) for name in LAYER_TERMS)
    first = sum(found.pop(name) for name in FIRST_LAYER_TERMS)
    return Rates(layer_s=layer, first_layer_s=first, **found)


# A layer's overhead is a sum: of the engine, of quantizing activations, of routing to experts
# (weighted with the share of layers that have them), and of latent attention.
LAYER_TERMS = ("layer_s", "quantized_layer_s", "expert_layer_s", "latent_layer_s")
FIRST_LAYER_TERMS = ("first_layer_s", "first_expert_layer_s", "first_latent_layer_s")


def rate_terms(
    model: ModelSpec,
    gpu: Gpu,
    path: ExecutionPath,
    engine: EngineSpec,
    efficiency: Efficiency,
) -> dict[str, Term]:
    """Every rate of a model on a GPU under an engine, as base and factor names; links excepted."""
    return {
        **_matrix_terms(gpu, path, efficiency),
        **_expert_terms(gpu, path, efficiency),
        **_attention_terms(gpu, efficiency),
        **_engine_terms(model, path, engine),
        **_first_token_terms(model, engine),
        "message_s": Term(MICRO, ("network.latency_us",)),
        "message_ramp_s": Term(MICRO, ("network.ramp_us",)),
    }


def link_term(gpu: Gpu, ranks: int, efficiency: Efficiency) -> Term:
    """Bytes/s per direction that collectives over `ranks` GPUs attain: NVLink, PCIe or NIC."""
    if gpu.link_bytes_per_s > 0 and ranks <= gpu.link_gpus:
        return Term(gpu.link_bytes_per_s, ("network",))
    shares = efficiency.pcie_network
    crowd = next((known for known in sorted(shares) if known >= ranks), max(shares))
    pcie = gpu.pcie_bytes_per_s * shares[crowd]
    if ranks <= GPUS_PER_NODE:
        return Term(pcie, ("network",))
    return Term(min(pcie, NIC_BYTES_PER_S), ("network",))


GPUS_PER_NODE = 8  # the largest server of the catalog without a rack-wide link
NIC_BYTES_PER_S = 50e9  # assumed: one 400 Gb/s NIC a GPU, as HGX and DGX servers have


def link_rate(gpu: Gpu, ranks: int, efficiency: Efficiency) -> float:
    """Bytes/s per direction that collectives over `ranks` GPUs of one node attain."""
    return link_term(gpu, ranks, efficiency).value(efficiency.factors)


def compute_share(gpu: Gpu, dtype: str, efficiency: Efficiency) -> float:
    """Share of a dtype's peak that large matrix multiplications attain, 0..1."""
    return _compute(gpu, dtype, efficiency).value(efficiency.factors) / gpu.flop_per_s[dtype]


def _compute(gpu: Gpu, dtype: str, efficiency: Efficiency) -> Term:
    """Attained flop/s.

    A GPU's own measured share of its 16-bit peak goes before the fit where the fit did not see its
    generation, or where it is a power-limited card far below it.
    """
    peak, family = gpu.flop_per_s[dtype], FAMILIES.get(dtype, dtype)
    own = gpu.compute_efficiency
    if own is not None and (gpu.arch not in efficiency.fitted_archs or own < 0.7):
        known = efficiency.factors
        return Term(peak * own * known[f"compute.{family}"] / known["compute.bf16"])
    blackwell = ("compute.blackwell",) if gpu.arch in BLACKWELL else ()
    return Term(peak, (f"compute.{family}", *blackwell))


def _bandwidth(gpu: Gpu, efficiency: Efficiency) -> Term:
    if gpu.arch not in efficiency.fitted_archs and gpu.memory_efficiency is not None:
        share = gpu.memory_efficiency * efficiency.memory_from_kernels
        return Term(gpu.hbm_bytes_per_s * share)
    blackwell = ("memory.blackwell",) if gpu.arch in BLACKWELL else ()
    return Term(gpu.hbm_bytes_per_s, ("memory", *blackwell))


def _matrix_terms(gpu: Gpu, path: ExecutionPath, efficiency: Efficiency) -> dict[str, Term]:
    wide = "bf16" if "bf16" in gpu.flop_per_s else "fp16"
    read = _bandwidth(gpu, efficiency)
    narrow: tuple[str, ...] = ()
    if path.weight_bytes < WEIGHT_BYTES["fp8"]:
        narrow = ("memory.fp4",)
    elif path.weight_bytes < WEIGHT_BYTES["bf16"]:
        narrow = ("memory.fp8",)
    return {
        "dense_flop_per_s": _compute(gpu, path.compute_dtype, efficiency),
        "dense_bytes_per_s": Term(read.base, (*read.factors, *narrow)),
        "head_flop_per_s": _compute(gpu, wide, efficiency),
        "head_bytes_per_s": read,
    }


def _expert_terms(gpu: Gpu, path: ExecutionPath, efficiency: Efficiency) -> dict[str, Term]:
    if not path.expert_kernel:
        return {"expert_flop_per_s": Term(1.0), "expert_bytes_per_s": Term(1.0)}
    known, dtype = efficiency.factors, path.expert_dtype
    peak, read = gpu.flop_per_s[dtype], gpu.hbm_bytes_per_s
    if gpu.arch not in efficiency.fitted_archs:  # in proportion to what large matrices attain
        family = FAMILIES.get(dtype, dtype)
        peak *= compute_share(gpu, dtype, efficiency) / known[f"compute.{family}"]
        read = _bandwidth(gpu, efficiency).value(known) / known["memory"]
    kernel = f"experts.{path.expert_kernel}"
    compute: tuple[str, ...] = (f"{kernel}.compute",)
    memory: tuple[str, ...] = (f"{kernel}.memory",)
    if gpu.arch in BLACKWELL and f"{kernel}.compute.blackwell" in known:
        compute += (f"{kernel}.compute.blackwell",)
        memory += (f"{kernel}.memory.blackwell",)
    return {"expert_flop_per_s": Term(peak, compute), "expert_bytes_per_s": Term(read, memory)}


def _attention_terms(gpu: Gpu, efficiency: Efficiency) -> dict[str, Term]:
    wide = "bf16" if "bf16" in gpu.flop_per_s else "fp16"
    slower = 1.0
    if gpu.arch not in efficiency.fitted_archs:  # the fitted share is one of the whole peak
        relative = compute_share(gpu, wide, efficiency) / efficiency.factors["compute.bf16"]
        slower = min(1.0, relative)
    return {
        "kv_bytes_per_s": Term(gpu.hbm_bytes_per_s, ("memory.kv",)),
        "attention_flop_per_s": Term(gpu.flop_per_s[wide] * slower, ("compute.attention",)),
    }


def _engine_terms(model: ModelSpec, path: ExecutionPath, engine: EngineSpec) -> dict[str, Term]:
    name = f"engine.{engine.name}"
    fitted = engine.name in FITTED_ENGINES
    like = name if fitted else "engine.vllm"
    sparse = (model.layers - model.dense_layers_first) / model.layers if model.experts else 0.0
    quantized = FAMILIES.get(path.compute_dtype, path.compute_dtype) in ("fp8", "fp4")
    narrow = "fp4" if path.compute_dtype == "fp4" else "fp8"
    expert = (f"experts.{path.expert_kernel}.layer_us", f"{like}.expert_layer")
    return {
        "layer_s": Term(MICRO, (f"{name}.layer_us",)) if fitted else Term(engine.layer_overhead_s),
        "quantized_layer_s": Term(MICRO * quantized, (f"layer.{narrow}_us",)),
        "expert_layer_s": Term(MICRO * sparse, expert if sparse else ()),
        "latent_layer_s": Term(MICRO * (model.kv_lora_rank > 0), (f"{like}.latent_layer_us",)),
        "step_s": Term(MILLI, (f"{name}.step_ms",)) if fitted else Term(engine.step_overhead_s),
        "sequence_s": Term(MICRO, (f"{like}.sequence_us",)),
        "prefill_overhead": Term(1.0, ("prefill.overhead",)),
        "interference": Term(1.0, (f"{like}.interference",)),
    }


def _first_token_terms(model: ModelSpec, engine: EngineSpec) -> dict[str, Term]:
    name = f"engine.{engine.name}" if engine.name in FITTED_ENGINES else "engine.vllm"
    sparse = (model.layers - model.dense_layers_first) / model.layers if model.experts else 0.0
    latent = float(model.kv_lora_rank > 0)
    layer = f"{name}.first_layer_us"
    return {
        "first_s": Term(MILLI, (f"{name}.first_ms",)),
        "first_layer_s": Term(MICRO, (layer,)),
        "first_expert_layer_s": Term(MICRO * sparse, (layer, "first.expert_layer")),
        "first_latent_layer_s": Term(MICRO * latent, (layer, "first.latent_layer")),
        "first_prefill": Term(1.0, (f"{name}.first_prefill",)),
        "queue": Term(1.0, (f"{name}.queue",)),
        "queue_power": Term(1.0, (f"{name}.queue_power",)),
    }
