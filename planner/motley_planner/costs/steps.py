"""Seconds: one decode step, one prefill, and what requests see of them in steady state.

Work (costs.work) divided by attained rates (costs.rates). Notation of the formulas: T tokens in a
step, B sequences, L layers, tp ranks. The arithmetic also takes arrays, which the fit relies on.
Source: roofline (Williams et al. 2009) with the factors of catalog/fitted.toml.
"""

from __future__ import annotations

from motley_planner.costs.rates import Rates
from motley_planner.costs.replica import Replica
from motley_planner.costs.work import (
    ACTIVATION_BYTES,
    LinearWork,
    MessageWork,
    kv_read_bytes,
    linear_work,
    message_work,
    prompt_attention_flop,
)

__all__ = [
    "ACTIVATION_BYTES",
    "allreduce_s",
    "both_s",
    "closed_loop_tpot_s",
    "decode_attention_s",
    "decode_step_s",
    "interference_s",
    "linear_s",
    "linear_work_s",
    "message_work_s",
    "overhead_s",
    "prefill_attention_s",
    "prefill_s",
    "prefill_work_s",
]

OVERLAP = 3.0  # reading weights and multiplying overlap, but not wholly near the ridge point


def linear_s(replica: Replica, tokens: float, head_tokens: float | None = None) -> float:
    """Seconds all matrix multiplications of one step over `tokens` tokens take.

    (c^3 + m^3)^(1/3) of compute and memory time for dense layers and for lm_head, which
    `head_tokens` (default: all) pass; c + m for experts, whose many small matrices overlap little.
    """
    work = linear_work(replica, tokens, tokens if head_tokens is None else head_tokens)
    return linear_work_s(work, replica.rates)


def linear_work_s(work: LinearWork, rates: Rates) -> float:
    """Seconds of matrix work at given rates."""
    dense = both_s(
        work.dense_flop / rates.dense_flop_per_s, work.dense_bytes / rates.dense_bytes_per_s
    )
    head = both_s(work.head_flop / rates.head_flop_per_s, work.head_bytes / rates.head_bytes_per_s)
    experts = (
        work.expert_flop / rates.expert_flop_per_s + work.expert_bytes / rates.expert_bytes_per_s
    )
    return dense + head + experts * rates.expert_imbalance


def both_s(compute_s: float, memory_s: float) -> float:
    """Seconds of compute and memory work that overlap: a maximum with a rounded corner."""
    value: float = (compute_s**OVERLAP + memory_s**OVERLAP) ** (1.0 / OVERLAP)
    return value


def allreduce_s(replica: Replica, tokens: float) -> float:
    """Seconds the collectives of one step take: two a layer; none on one GPU.

    2 L (a sqrt(log2 n) + ramp + 2 (n - 1) / n x T h 2 B / N).
    """
    return message_work_s(message_work(replica, tokens), replica.rates)


def message_work_s(work: MessageWork, rates: Rates) -> float:
    """Seconds of collectives at given rates."""
    latency = work.hops * rates.message_s + work.ramp * rates.message_ramp_s
    return work.count * (latency + work.bytes_sent / rates.link_bytes_per_s)


def decode_attention_s(replica: Replica, batch: float, context_tokens: float) -> float:
    """Seconds of one decode step that each sequence adds: reading its KV cache, and bookkeeping.

    B kv(ctx) dup / (tp W) + B / dp x host time of a sequence.
    """
    read = kv_read_bytes(replica, batch, context_tokens) / replica.rates.kv_bytes_per_s
    return read + batch / replica.layout.attention_dp * replica.rates.sequence_s


def prefill_attention_s(
    replica: Replica, prompt_tokens: float, cached_tokens: float = 0.0
) -> float:
    """Seconds attention takes over one prompt: 2 (d_qk + d_v) n_q x causal pairs / (tp F)."""
    flop = prompt_attention_flop(replica, prompt_tokens, cached_tokens)
    return flop / replica.rates.attention_flop_per_s


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


def prefill_s(replica: Replica, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
    """Seconds the prefill of one prompt takes, alone; cached tokens are attended to, not computed.

    Only the last token passes lm_head.
    """
    return prefill_work_s(replica, prompt_tokens, cached_tokens) + overhead_s(replica)


def prefill_work_s(replica: Replica, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
    """Seconds of a prefill without launches and host work."""
    fresh = max(1.0, prompt_tokens - cached_tokens)
    group = fresh * replica.layout.attention_dp  # each group prefills a prompt of its own
    return (
        linear_s(replica, group, float(replica.layout.attention_dp))
        + prefill_attention_s(replica, prompt_tokens, cached_tokens)
        + allreduce_s(replica, group)
    )


def interference_s(replica: Replica, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
    """Seconds a running batch loses to one prompt that is prefilled among its decode steps.

    (prefill + share of the overhead) x measured interference: chunks of a prompt ride along with
    decode steps, which have paid most of the launches already.
    """
    rates = replica.rates
    launches = rates.prefill_overhead * overhead_s(replica)
    work = prefill_work_s(replica, prompt_tokens, cached_tokens)
    return (work + launches) * rates.interference


def closed_loop_tpot_s(
    replica: Replica,
    batch: float,
    prompt_tokens: float,
    output_tokens: float,
    cached_tokens: float = 0.0,
) -> float:
    """Mean seconds per output token when `batch` equal requests always run.

    decode(B) + (B - 1) / dp x interference / OSL: the prefills of the others land in my decode.
    """
    context = prompt_tokens + output_tokens / 2.0
    others = max(0.0, batch - 1.0) / replica.layout.attention_dp
    prompts = others * interference_s(replica, prompt_tokens, cached_tokens) / output_tokens
    return decode_step_s(replica, batch, context) + prompts
