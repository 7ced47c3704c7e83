"""Seconds: one decode step, one prefill, and what requests see of them in steady state.

Notation of the formulas: T tokens in a step, B sequences, L layers, h hidden size, tp ranks.
Source: roofline (Williams et al. 2009) with the factors of catalog/efficiency.toml.
"""

from __future__ import annotations

from motley_planner.costs.memory import kv_bytes, layer_split
from motley_planner.costs.parameters import touched_parameters
from motley_planner.costs.replica import Replica

ACTIVATION_BYTES = 2.0  # activations travel in 16 bits


def linear_s(replica: Replica, tokens: float) -> float:
    """Seconds all matrix multiplications of one step over `tokens` tokens take.

    max(2 P_active (T + T0) / (tp F), touched(T) w / (tp W)); T0: small steps use the units badly.
    """
    work = 2.0 * replica.active_parameters * (tokens + replica.efficiency.small_batch_tokens)
    compute = work / replica.linear_flop_per_s
    bytes_read = touched_parameters(replica.model, tokens) * replica.path.weight_bytes
    return max(compute, bytes_read / replica.weight_bytes_per_s) / replica.tensor_parallel


def allreduce_s(replica: Replica, tokens: float) -> float:
    """Seconds the collectives of one step take: two all-reduces a layer.

    2 L (a + 2 (tp - 1) / tp x T h 2 B / N); none on one GPU.
    """
    ranks = replica.tensor_parallel
    if ranks == 1:
        return 0.0
    moved = 2.0 * (ranks - 1) / ranks * tokens * replica.model.hidden * ACTIVATION_BYTES
    once = replica.efficiency.allreduce_latency_s + moved / replica.link_bytes_per_s
    return 2.0 * replica.model.layers * once


def decode_attention_s(replica: Replica, batch: float, context_tokens: float) -> float:
    """Seconds one decode step takes to read the KV cache: B kv(ctx) dup / (tp W)."""
    read = batch * kv_bytes(replica.model, context_tokens, replica.kv_value_bytes)
    return read * replica.kv_replication / (replica.tensor_parallel * replica.kv_bytes_per_s)


def prefill_attention_s(replica: Replica, prompt_tokens: float) -> float:
    """Seconds attention takes over one prompt: 2 (d_qk + d_v) n_q x causal pairs / (tp F).

    Pairs: S^2 / 2 in a full layer, S w - w^2 / 2 in a windowed one with S > w.
    """
    model = replica.model
    full, windowed = layer_split(model)
    window = min(float(model.sliding_window_tokens), prompt_tokens)
    pairs = full * prompt_tokens**2 / 2.0
    pairs += windowed * (prompt_tokens * window - window**2 / 2.0)
    widths = 2.0 * model.head_dim
    if model.kv_lora_rank:
        widths = float(model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    flop = 2.0 * widths * model.heads * pairs
    return flop / (replica.tensor_parallel * replica.attention_flop_per_s)


def overhead_s(replica: Replica) -> float:
    """Seconds of launches and host work in one step: L x per layer + per step."""
    engine = replica.engine
    return replica.model.layers * engine.layer_overhead_s + engine.step_overhead_s


def decode_step_s(replica: Replica, batch: float, context_tokens: float) -> float:
    """Seconds one decode step takes for a whole batch.

    Every weight is read once a step and every sequence's KV cache once, so small batches are bound
    by memory. Units: context_tokens is per sequence.
    """
    return (
        linear_s(replica, batch)
        + decode_attention_s(replica, batch, context_tokens)
        + allreduce_s(replica, batch)
        + overhead_s(replica)
    )


def prefill_s(replica: Replica, prompt_tokens: float) -> float:
    """Seconds the prefill of one prompt takes, alone."""
    return (
        linear_s(replica, prompt_tokens)
        + prefill_attention_s(replica, prompt_tokens)
        + allreduce_s(replica, prompt_tokens)
        + overhead_s(replica)
    )


def closed_loop_tpot_s(
    replica: Replica, batch: float, prompt_tokens: float, output_tokens: float
) -> float:
    """Mean seconds per output token when `batch` equal requests always run.

    decode(B) + (B - 1) prefill / OSL: the prefills of the others land in my decode.
    """
    context = prompt_tokens + output_tokens / 2.0
    others = (batch - 1.0) * prefill_s(replica, prompt_tokens) / output_tokens
    return decode_step_s(replica, batch, context) + others
