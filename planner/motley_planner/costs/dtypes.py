"""Which dtype a GPU really computes in, and how many bytes a weight takes.

Rules, in order:
1. A checkpoint published quantized (gpt-oss fp4, DeepSeek-V3 fp8) keeps its dtype if that is
   smaller than the one asked for.
2. bf16 on a GPU without bf16 (Volta, Turing) runs in fp16.
3. fp8, fp4 and int8 compute natively where the GPU lists a peak; elsewhere the weights alone are
   quantized and are widened to 16 bits on the fly, if a kernel for that exists:
   NVIDIA from compute capability 8.0 on (Marlin), for fp8, fp4 and int8.
4. int4 is always weight-only; NVIDIA from 7.5 on, AMD from gfx942 on.
5. Mixtures of experts in 4 bits quantize their experts alone: the rest stays in 16 bits where the
   checkpoint is published so (gpt-oss, Kimi-K2), and in 8 bits elsewhere (NVFP4 checkpoints keep
   attention wider).
6. Everything else is refused with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.domain.hardware import Gpu
from motley_planner.domain.models import ModelSpec

# Bytes a weight takes with its scales: fp4 has one fp8 scale for 16 values, int4 one 16-bit
# scale and zero point for 128 (AWQ, GPTQ defaults); fp8 and int8 scales are negligible.
WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.56, "int4": 0.53}
QUANTIZED = ("fp8", "fp4", "int8", "int4")
BLACKWELL = ("sm100", "sm103", "sm120")
_FOUR_BITS = ("fp4", "int4")


@dataclass(frozen=True, slots=True)
class ExecutionPath:
    """Bytes of one weight, and the dtype that matrix multiplications run in.

    `weight_bytes` and `compute_dtype` are of everything but routed experts; those have their own.
    """

    weight_bytes: float
    compute_dtype: str
    weight_only: bool  # weights are widened on the fly
    expert_bytes: float = 0.0
    expert_dtype: str = ""
    expert_kernel: str = ""  # name of the kernel class in the fitted factors: fp8, mxfp4, ...


def stored_dtype(model: ModelSpec, precision: str) -> str:
    """The dtype of the weights in memory: the one asked for, or the checkpoint's if smaller."""
    published = model.published_dtype
    # fp4 and int4 are as small as each other: asking for one names another checkpoint.
    if published and WEIGHT_BYTES[published] < 0.9 * WEIGHT_BYTES[precision]:
        return published
    return precision


def shared_dtype(model: ModelSpec, precision: str) -> str:
    """The dtype of all weights but routed experts: wider than theirs in 4-bit mixtures."""
    dtype = stored_dtype(model, precision)
    if not model.experts or dtype not in _FOUR_BITS:
        return dtype
    return "bf16" if model.published_dtype == dtype else "fp8" if dtype == "fp4" else dtype


def execution_path(gpu: Gpu, model: ModelSpec, precision: str) -> ExecutionPath | str:
    """How a GPU runs a model's weights at a precision, or why it cannot."""
    if precision not in WEIGHT_BYTES:
        return f"precision {precision!r} is unknown; use one of {', '.join(WEIGHT_BYTES)}"
    shared = _computes_in(gpu, shared_dtype(model, precision))
    if isinstance(shared, str):
        return shared
    if not model.experts:
        return ExecutionPath(*shared)
    dtype = stored_dtype(model, precision)
    experts = _computes_in(gpu, dtype)
    if isinstance(experts, str):
        return experts
    stored, compute, weight_only = experts
    kernel = "int4" if weight_only else {"fp16": "bf16", "int8": "fp8"}.get(compute, compute)
    if model.published_dtype == "fp4" == dtype:
        # gpt-oss: MXFP4 weights; measured rows fit 16-bit compute on Hopper, fp8 on Blackwell.
        native = gpu.arch in BLACKWELL and "fp8" in gpu.flop_per_s
        compute = "fp8" if native else _wide(gpu)
        kernel, weight_only = "mxfp4_native" if native else "mxfp4", True
    return ExecutionPath(shared[0], shared[1], weight_only, stored, compute, kernel)


def _wide(gpu: Gpu) -> str:
    return "bf16" if "bf16" in gpu.flop_per_s else "fp16"


def _computes_in(gpu: Gpu, dtype: str) -> tuple[float, str, bool] | str:
    """(bytes a weight, dtype computed in, weight-only), or why there is no kernel."""
    stored, wide = WEIGHT_BYTES[dtype], _wide(gpu)
    if dtype not in QUANTIZED:
        return stored, dtype if dtype in gpu.flop_per_s else wide, False
    if dtype in gpu.flop_per_s and dtype != "int4":
        return stored, dtype, False
    if gpu.vendor == "nvidia":
        least = 75 if dtype == "int4" else 80
        capability = gpu.arch.removeprefix("sm")
        # GPUs that a Fleet adds state no capability; who asks for a quantized model knows his GPU.
        if not capability.isdigit() or int(capability) >= least:
            return stored, wide, True
        return f"{gpu.name} ({gpu.arch}) has no {dtype} kernels; they need sm{least} or newer"
    if gpu.vendor == "amd" and gpu.arch >= "gfx942" and dtype in _FOUR_BITS:
        return stored, wide, True
    return f"{gpu.name} has no {dtype} kernels"
