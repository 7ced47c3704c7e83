"""What requests see when a fixed number of equal ones always run: TTFT, TPOT, throughput.

Pipelines here are cut into equal stages of equal GPUs: the stages work on different micro-batches,
so a token passes all of them at 1 / stages of the batch, and one prompt holds up each for
1 / stages of its prefill. Unequal pipelines are costs.pipeline's.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.costs.memory import kv_bytes, resident_tokens, usable_bytes
from motley_planner.costs.rates import GPUS_PER_NODE, Rates, link_rate
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import (
    decode_step_s,
    interference_s,
    overhead_s,
    prefill_work_s,
)
from motley_planner.costs.work import ACTIVATION_BYTES

HOP_LATENCY_S = 10e-6  # assumed: one point-to-point message of an engine


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` equal requests in flight; `cached_tokens` of each prompt are in the KV cache."""

    requests: float
    prompt_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Means over requests, in seconds; `running` of the requests run, the others wait."""

    ttft_s: float
    tpot_s: float
    running: float

    def tokens_per_s(self, load: Load) -> float:
        """Output tokens a second, by Little's law over all requests in flight."""
        return load.requests * load.output_tokens / (self.ttft_s + load.output_tokens * self.tpot_s)


def running_sequences(replica: Replica, load: Load, stages: int = 1) -> float:
    """Sequences of a load whose KV caches fit at once; 0 if not even the weights fit.

    min(requests, (memory - weights) / (kv(ISL + 0.6 OSL) x replication)).
    """
    room = usable_bytes(replica.gpu, replica.engine, replica.gpus * stages) - replica.weight_bytes
    if room <= 0.0:
        return 0.0
    tokens = resident_tokens(load.prompt_tokens, load.output_tokens)
    each = kv_bytes(replica.model, tokens, replica.kv_value_bytes) * replica.kv_replication
    return min(load.requests, room / each)


def latency(replica: Replica, load: Load, stages: int = 1) -> Latency:
    """Mean TTFT and TPOT of a load; requests beyond the memory wait for a slot.

    Raises: ValueError if no sequence fits.
    """
    running = running_sequences(replica, load, stages)
    if running < 1.0:
        raise ValueError("not even one sequence fits; ask running_sequences first")
    groups = replica.layout.attention_dp
    others = max(0.0, running / groups - 1.0)
    step = decode_s(replica, running, load, stages)
    prompt = interference_s(replica, load.prompt_tokens, load.cached_tokens) / stages
    tpot = step + others * prompt / load.output_tokens
    work = prefill_work_s(replica, load.prompt_tokens, load.cached_tokens)
    alone = work + replica.rates.prefill_overhead * overhead_s(replica)
    fresh = load.prompt_tokens - load.cached_tokens
    first = first_token_s(replica, step, alone, others) + stages_s(replica, fresh, stages)
    # By Little's law the rest wait until as many others have finished before them.
    wait = (load.requests / running - 1.0) * (first + load.output_tokens * tpot)
    return Latency(first + wait, tpot, running)


def decode_s(replica: Replica, running: float, load: Load, stages: int = 1) -> float:
    """Seconds from one token of a sequence to its next, without prompts of others."""
    each = max(1.0, running / stages)
    context = load.prompt_tokens + load.output_tokens / 2.0
    return decode_step_s(replica, each, context) + stages_s(replica, each, stages)


def stages_s(replica: Replica, tokens: float, stages: int) -> float:
    """Seconds that activations of `tokens` tokens spend between the stages of a pipeline."""
    if stages <= 1:
        return 0.0
    inside = replica.gpus * stages <= max(GPUS_PER_NODE, replica.gpu.link_gpus)
    ranks = 2 if inside else GPUS_PER_NODE + 1
    rate = link_rate(replica.gpu, max(ranks, 2), replica.efficiency)
    moved = tokens * replica.model.hidden * ACTIVATION_BYTES
    return (stages - 1) * (HOP_LATENCY_S + moved / rate)


def first_token_s(replica: Replica, step_s: float, prefill_s: float, others: float) -> float:
    """Seconds to the first token of a prompt among `others` running requests of its group."""
    return first_token_work_s(replica.rates, replica.model.layers, step_s, prefill_s, others)


def first_token_work_s(
    rates: Rates, layers: float, step_s: float, prefill_s: float, others: float
) -> float:
    """Handling + L x launches + one step + prefill x (1 + queue n^power), n others."""
    queue: float = rates.queue * others**rates.queue_power
    handling = rates.first_s + layers * rates.first_layer_s
    prompt = rates.first_prefill * rates.first_groups * prefill_s
    return handling + step_s + prompt * (1.0 + queue)
