"""Bytes: weights, KV cache, and what is left for it."""

from __future__ import annotations

from motley_planner.costs.dtypes import WEIGHT_BYTES, ExecutionPath, shared_dtype, stored_dtype
from motley_planner.costs.parameters import linear_layers, parameter_count, routed_parameters
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Gpu
from motley_planner.domain.models import ModelSpec

# A request that is being answered holds its prompt and, averaged over its life and over lengths
# that spread around the mean, this share of its output. Source: fit in datasets notes, section 3.3.
RESIDENT_OUTPUT_SHARE = 0.6
_ADAPTER_BYTES = 2.0  # an adapter's parameters are kept in 16 bits


def weight_bytes(model: ModelSpec, precision: str) -> float:
    """Bytes of all weights of one replica.

    Some checkpoints leave embeddings and lm_head in 16 bits; quantization is taken to cover them.
    """
    routed = routed_parameters(model)
    shared = (parameter_count(model) - routed) * WEIGHT_BYTES[shared_dtype(model, precision)]
    return shared + routed * WEIGHT_BYTES[stored_dtype(model, precision)]


def split_weight_bytes(model: ModelSpec, path: ExecutionPath) -> tuple[float, float]:
    """Bytes of everything but routed experts, and of routed experts."""
    routed = routed_parameters(model)
    return (parameter_count(model) - routed) * path.weight_bytes, routed * path.expert_bytes


def adapter_bytes(model: ModelSpec, tensor_parallel: int) -> float:
    """Bytes of the slots for LoRA adapters over all ranks of a replica, in 16 bits.

    Each linear layer holds A (r x in) and B (out x r). Where its output is split over the ranks
    (query, key, value, gate, up) every rank holds all of A, where its input is (output, down) all of
    B: slots r 2 (sum_split-out (in tp + out) + sum_split-in (in + out tp)). Routed experts count in
    full, as engines set slots aside for them whether an adapter has them or not.

    Source: Sheng et al., S-LoRA (arXiv 2311.03285), section 6, and vLLM's default sharding.
    """
    if not model.adapter_slots:
        return 0.0
    widths = 0.0
    for count, inside, outside, splits_output in linear_layers(model):
        a, b = (
            (inside * tensor_parallel, outside)
            if splits_output
            else (inside, outside * tensor_parallel)
        )
        widths += count * (a + b)
    return model.adapter_slots * model.adapter_rank * widths * _ADAPTER_BYTES


def kv_values_per_token(model: ModelSpec, context_tokens: float) -> float:
    """Cached values of a sequence of `context_tokens`, divided by its tokens.

    2 n_kv d L; MLA keeps (rank + rope) L; windowed layers keep min(context, window) tokens.
    """
    if context_tokens <= 0:
        return 0.0
    per_layer = 2.0 * model.kv_heads * model.head_dim
    if model.kv_lora_rank:
        per_layer = float(model.kv_lora_rank + model.qk_rope_head_dim)
    full, windowed = layer_split(model)
    kept = min(context_tokens, model.sliding_window_tokens) / context_tokens if windowed else 0.0
    return per_layer * (full + windowed * kept)


def layer_split(model: ModelSpec) -> tuple[int, int]:
    """Layers with full attention, and layers with a sliding window."""
    if not model.sliding_window_tokens:
        return model.layers, 0
    return model.full_attention_layers, model.layers - model.full_attention_layers


def kv_bytes(model: ModelSpec, context_tokens: float, value_bytes: float) -> float:
    """Bytes of one sequence's KV cache, over all layers, stored once."""
    return kv_values_per_token(model, context_tokens) * context_tokens * value_bytes


def kv_replication(model: ModelSpec, tensor_parallel: int) -> float:
    """How many times the KV cache is stored over the ranks: max(1, tp / n_kv); MLA: tp."""
    if model.kv_lora_rank:
        return float(tensor_parallel)
    return max(1.0, tensor_parallel / model.kv_heads)


def usable_bytes(gpu: Gpu, engine: EngineSpec, gpus: int) -> float:
    """Bytes that weights and KV cache may take over `gpus` GPUs: share of memory minus buffers."""
    held = gpu.driver_bytes or gpu.hbm_bytes
    return gpus * (held * engine.memory_utilization - engine.reserved_bytes_per_gpu)


def resident_tokens(prompt_tokens: float, output_tokens: float) -> float:
    """Tokens a running request holds in the KV cache, on average over its life."""
    return prompt_tokens + RESIDENT_OUTPUT_SHARE * output_tokens
