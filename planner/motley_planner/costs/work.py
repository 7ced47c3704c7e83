"""What one step has to do on the busiest GPU, before any efficiency: flop, bytes, messages.

Nothing here is fitted: these are counts that follow from the model and the layout. Notation: T
tokens in a step, B sequences, L layers, h hidden size, tp ranks of one attention group, dp groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from motley_planner.costs.memory import kv_bytes, layer_split
from motley_planner.costs.replica import Replica
from motley_planner.domain.models import ModelSpec

ACTIVATION_BYTES = 2.0  # activations travel in 16 bits
HEAD_BYTES = 2.0  # lm_head stays in 16 bits
# Small steps use the matrix units badly: they cost as if they held this many tokens more. Source:
# gemm timings of ai-dynamo/aiconfigurator@095f58a, 46.8 fitted end to end.
SMALL_STEP_TOKENS = 50.0
# Routing is skewed: T tokens touch as many experts as this share of T tokens evenly routed would.
# Source: moe timings under power-law routing against balanced ones, same collection: 0.6 to 0.75 of
# the time at 16 to 64 tokens.
ROUTING_SPREAD = 0.7
RAMP_BYTES = 2e6  # a collective's latency stops growing here; same collection, all-reduce timings
RAMP_RANKS = 8


@dataclass(frozen=True, slots=True)
class LinearWork:
    """Matrix multiplications of one step."""

    dense_flop: float
    dense_bytes: float
    head_flop: float
    head_bytes: float
    expert_flop: float
    expert_bytes: float


@dataclass(frozen=True, slots=True)
class MessageWork:
    """Collectives of one step: how many, how large, and how far."""

    count: float  # 0 on one GPU
    bytes_sent: float  # by each GPU, in each collective
    hops: float  # latency in units of a collective of two ranks: sqrt(log2 ranks)
    ramp: float  # 0..1: how much of the latency of large collectives applies


def linear_work(replica: Replica, tokens: float, head_tokens: float) -> LinearWork:
    """Matrix work of a step over `tokens` tokens, of which `head_tokens` pass lm_head.

    Dense: 2 P (T / dp + T0) / tp. Experts: 2 k expert T over all expert ranks; bytes of the experts
    touched, E (1 - (1 - k / E)^(0.7 T)).
    """
    model, tp, dp = replica.model, replica.tensor_parallel, replica.layout.attention_dp
    head, dense = replica.head_parameters, replica.dense_parameters
    own, own_head = tokens / dp, head_tokens / dp
    chosen = bytes_read = 0.0
    if model.experts:
        share, ranks = model.experts_per_token / model.experts, replica.expert_ranks
        chosen = 2.0 * replica.routed_parameters * share * tokens / ranks
        touched = replica.routed_parameters * (1.0 - (1.0 - share) ** (tokens * ROUTING_SPREAD))
        bytes_read = touched * replica.path.expert_bytes / ranks
    return LinearWork(
        dense_flop=2.0 * dense * (own + SMALL_STEP_TOKENS) / tp,
        dense_bytes=dense * replica.path.weight_bytes / tp,
        head_flop=2.0 * head * (own_head + SMALL_STEP_TOKENS) / tp,
        head_bytes=head * HEAD_BYTES / tp,
        expert_flop=chosen,
        expert_bytes=bytes_read,
    )


def message_work(replica: Replica, tokens: float) -> MessageWork:
    """Two collectives a layer: 2 (n - 1) / n x T h 2 B sent by each of n GPUs."""
    ranks = replica.gpus
    if ranks == 1:
        return MessageWork(0.0, 0.0, 0.0, 0.0)
    held = tokens / replica.layout.attention_dp * replica.model.hidden * ACTIVATION_BYTES
    return MessageWork(
        count=2.0 * replica.model.layers,
        bytes_sent=2.0 * (ranks - 1) / ranks * held,
        hops=log2(ranks) ** 0.5,
        ramp=min(1.0, held / RAMP_BYTES) * (min(ranks, RAMP_RANKS) - 1) / (RAMP_RANKS - 1),
    )


def kv_read_bytes(replica: Replica, batch: float, context_tokens: float) -> float:
    """Bytes of KV cache that one GPU reads in a decode step: B kv(ctx) dup / (dp tp)."""
    read = batch * kv_bytes(replica.model, context_tokens, replica.kv_value_bytes)
    return read * replica.kv_replication / replica.gpus


def prompt_attention_flop(replica: Replica, prompt_tokens: float, cached_tokens: float) -> float:
    """Flop attention takes over one prompt on each GPU: 2 (d_qk + d_v) n_q x causal pairs / tp.

    Pairs: S^2 / 2 in a full layer, S w - w^2 / 2 in a windowed one with S > w; pairs among tokens
    whose keys are cached already are not computed again.
    """
    model = replica.model
    pairs = causal_pairs(model, prompt_tokens) - causal_pairs(model, cached_tokens)
    widths = 2.0 * model.head_dim
    if model.kv_lora_rank:
        widths = float(model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    return 2.0 * widths * model.heads * pairs / replica.tensor_parallel


def causal_pairs(model: ModelSpec, tokens: float) -> float:
    """Pairs of tokens that attend to each other, summed over the layers."""
    full, windowed = layer_split(model)
    window = min(float(model.sliding_window_tokens), tokens)
    return full * tokens**2 / 2.0 + windowed * (tokens * window - window**2 / 2.0)
