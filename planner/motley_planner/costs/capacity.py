"""How many sequences fit, and how long a first token waits behind other prompts."""

from __future__ import annotations

from math import log

from motley_planner.costs.memory import kv_bytes, resident_tokens
from motley_planner.costs.replica import Replica


def most_sequences(replica: Replica, prompt_tokens: float, output_tokens: float) -> float:
    """Sequences of one kind whose KV caches fit beside the weights; 0 if the weights do not fit.

    (tp memory share - weights - buffers) / (kv(ISL + 0.6 OSL) x replication).
    """
    if replica.free_bytes <= 0:
        return 0.0
    tokens = resident_tokens(prompt_tokens, output_tokens)
    each = kv_bytes(replica.model, tokens, replica.kv_value_bytes) * replica.kv_replication
    return replica.free_bytes / each if each > 0 else float("inf")


def first_token_wait_s(utilization: float, service_s: float, quantile: float) -> float:
    """Seconds a prompt waits behind other prompts, at a quantile; M/D/1 with an exponential tail.

    Mean wait rho s / (2 (1 - rho)); a wait happens with probability rho; given one, it is taken
    as exponential. Returns infinity from rho = 1 on. `quantile` 0 gives the mean.
    Source: Pollaczek-Khinchine; the tail is an approximation.
    """
    if utilization >= 1.0:
        return float("inf")
    mean = utilization * service_s / (2.0 * (1.0 - utilization))
    if quantile <= 0.0:
        return mean
    missing = 1.0 - quantile
    return mean / utilization * log(utilization / missing) if utilization > missing else 0.0
