"""Which dtype a GPU really computes in, and how many bytes a weight takes.

Rules, in order:
1. A checkpoint published quantized (gpt-oss fp4, DeepSeek-V3 fp8) keeps its dtype if that is
   smaller than the one asked for.
2. bf16 on a GPU without bf16 (Volta, Turing) runs in fp16.
3. fp8, fp4 and int8 compute natively where the GPU lists a peak; elsewhere the weights alone are
   quantized and are widened to 16 bits on the fly, if a kernel for that exists:
   NVIDIA from compute capability 8.0 on (Marlin), for fp8, fp4 and int8.
4. int4 is always weight-only; NVIDIA from 7.5 on, AMD from gfx942 on.
5. Everything else is refused with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.domain.hardware import Gpu
from motley_planner.domain.models import ModelSpec

# Bytes a weight takes with its scales: fp4 has one fp8 scale for 16 values, int4 one 16-bit
# scale and zero point for 128 (AWQ, GPTQ defaults); fp8 and int8 scales are negligible.
WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.56, "int4": 0.53}
QUANTIZED = ("fp8", "fp4", "int8", "int4")
_BLACKWELL = ("sm100", "sm103", "sm120")


@dataclass(frozen=True, slots=True)
class ExecutionPath:
    """Bytes of one weight, and the dtype that matrix multiplications run in."""

    weight_bytes: float
    compute_dtype: str
    weight_only: bool  # weights are widened on the fly


def stored_dtype(model: ModelSpec, precision: str) -> str:
    """The dtype of the weights in memory: the one asked for, or the checkpoint's if smaller."""
    published = model.published_dtype
    if published and WEIGHT_BYTES[published] < WEIGHT_BYTES[precision]:
        return published
    return precision


def execution_path(gpu: Gpu, model: ModelSpec, precision: str) -> ExecutionPath | str:
    """How a GPU runs a model's weights at a precision, or why it cannot."""
    if precision not in WEIGHT_BYTES:
        return f"precision {precision!r} is unknown; use one of {', '.join(WEIGHT_BYTES)}"
    dtype = stored_dtype(model, precision)
    stored = WEIGHT_BYTES[dtype]
    wide = "bf16" if "bf16" in gpu.flop_per_s else "fp16"
    if dtype not in QUANTIZED:
        return ExecutionPath(stored, dtype if dtype in gpu.flop_per_s else wide, weight_only=False)
    if model.published_dtype == "fp4" and dtype == "fp4":
        # gpt-oss: MXFP4 weights; measured rows fit 16-bit compute on Hopper, fp8 on Blackwell.
        native = "fp8" if gpu.arch in _BLACKWELL else wide
        return _weight_only(gpu, dtype, stored, native)
    if dtype in gpu.flop_per_s:
        return ExecutionPath(stored, dtype, weight_only=False)
    return _weight_only(gpu, dtype, stored, wide)


def _weight_only(gpu: Gpu, dtype: str, stored: float, compute: str) -> ExecutionPath | str:
    path = ExecutionPath(stored, compute, weight_only=True)
    if gpu.vendor == "nvidia":
        least = 75 if dtype == "int4" else 80
        capability = int(gpu.arch.removeprefix("sm"))
        if capability >= least:
            return path
        return f"{gpu.name} ({gpu.arch}) has no {dtype} kernels; they need sm{least} or newer"
    if gpu.vendor == "amd" and gpu.arch >= "gfx942" and dtype in ("int4", "fp4"):
        return path
    return f"{gpu.name} has no {dtype} kernels"
