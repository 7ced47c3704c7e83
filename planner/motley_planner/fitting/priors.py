"""What is known of each factor before the end-to-end rows are seen: a value, and how far to trust it.

The spread is one standard deviation of the logarithm. Sources, unless a line says otherwise: kernel
timings (gemm, moe, attention, all-reduce, nccl) of ai-dynamo/aiconfigurator@095f58a on H100, H200
and B200, reduced to one share of the peak per dtype; engine overheads from the prototype's fit. The
choice of what gets a factor was made with the development rows in view.
"""

from __future__ import annotations

# Step time of decode and prefill.
STEP: dict[str, tuple[float, float]] = {
    "compute.bf16": (0.75, 0.3),
    "compute.fp8": (0.60, 0.3),
    "compute.fp4": (0.45, 0.3),
    "compute.blackwell": (1.0, 0.2),
    "compute.attention": (0.40, 0.4),
    "memory": (0.78, 0.2),
    "memory.blackwell": (0.95, 0.15),
    "memory.fp8": (0.93, 0.1),
    "memory.fp4": (0.85, 0.2),
    "memory.kv": (0.70, 0.3),
    "experts.fp8.compute": (0.40, 0.3),
    "experts.fp8.compute.blackwell": (0.70, 0.3),
    "experts.fp8.memory": (0.90, 0.2),
    "experts.fp8.memory.blackwell": (0.90, 0.2),
    "experts.fp8.layer_us": (35.0, 0.4),
    "experts.fp4.compute": (0.35, 0.3),
    "experts.fp4.memory": (0.90, 0.2),
    "experts.fp4.layer_us": (25.0, 0.4),
    "experts.int4.compute": (0.20, 0.4),
    "experts.int4.compute.blackwell": (0.60, 0.2),
    "experts.int4.memory": (0.40, 0.5),
    "experts.int4.memory.blackwell": (0.70, 0.15),
    "experts.int4.layer_us": (55.0, 0.4),
    "experts.mxfp4.compute": (0.40, 0.5),
    "experts.mxfp4.memory": (0.45, 0.5),
    "experts.mxfp4.layer_us": (25.0, 0.6),
    "experts.mxfp4_native.compute": (0.35, 0.5),
    "experts.mxfp4_native.memory": (0.70, 0.5),
    "experts.mxfp4_native.layer_us": (15.0, 0.6),
    "experts.imbalance": (1.15, 0.1),
    "network": (0.60, 0.4),
    "network.latency_us": (12.0, 0.4),
    "network.ramp_us": (10.0, 0.7),
    "layer.fp8_us": (4.0, 0.7),
    "layer.fp4_us": (5.0, 0.7),
    "engine.vllm.layer_us": (20.0, 0.3),
    "engine.sglang.layer_us": (15.0, 0.4),
    "engine.trtllm.layer_us": (11.0, 0.3),
    "engine.vllm.step_ms": (1.0, 0.4),
    "engine.sglang.step_ms": (0.6, 0.5),
    "engine.trtllm.step_ms": (0.5, 0.4),
    "engine.vllm.sequence_us": (5.0, 1.0),
    "engine.sglang.sequence_us": (5.0, 1.0),
    "engine.trtllm.sequence_us": (3.0, 1.0),
    "engine.sglang.expert_layer": (1.0, 0.3),
    "engine.trtllm.expert_layer": (0.7, 0.3),
    "engine.vllm.latent_layer_us": (10.0, 0.5),
    "engine.sglang.latent_layer_us": (30.0, 0.5),
    "engine.trtllm.latent_layer_us": (10.0, 0.5),
    "engine.vllm.interference": (1.0, 0.2),
    "engine.sglang.interference": (1.0, 0.2),
    "engine.trtllm.interference": (1.0, 0.2),
    "prefill.overhead": (0.30, 0.5),
}

# Time to the first token; fitted after the step times.
FIRST: dict[str, tuple[float, float]] = {
    "engine.vllm.first_ms": (20.0, 0.5),
    "engine.sglang.first_ms": (25.0, 0.5),
    "engine.trtllm.first_ms": (25.0, 0.5),
    "engine.vllm.first_layer_us": (150.0, 0.7),
    "engine.sglang.first_layer_us": (300.0, 0.7),
    "engine.trtllm.first_layer_us": (200.0, 0.7),
    "first.expert_layer": (1.0, 0.5),
    "first.latent_layer": (1.0, 0.5),
    "engine.vllm.first_prefill": (1.1, 0.3),
    "engine.sglang.first_prefill": (1.5, 0.5),
    "engine.trtllm.first_prefill": (1.1, 0.3),
    "first.groups": (1.5, 0.6),
    "engine.vllm.queue": (0.08, 0.6),
    "engine.sglang.queue": (0.10, 0.6),
    "engine.trtllm.queue": (0.08, 0.6),
    "engine.vllm.queue_power": (0.93, 0.15),
    "engine.sglang.queue_power": (0.80, 0.2),
    "engine.trtllm.queue_power": (0.93, 0.15),
}

# Kept as they are: kernel timings alone speak of them, no end-to-end row does.
FIXED: dict[str, float] = {
    "engine.vllm.expert_layer": 1.0,  # the scale of the others
    "experts.bf16.compute": 0.45,
    "experts.bf16.memory": 0.90,
    "experts.bf16.layer_us": 35.0,
}

ALL = {name: value for name, (value, _) in {**STEP, **FIRST}.items()} | FIXED
