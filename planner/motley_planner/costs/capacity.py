"""How many sequences fit, how long a first token waits, and how busy a pool may be.

Theory of operation. A replica with n requests gives each its share of the same steps, so it is a
processor-sharing queue whose service rate depends on n: by insensitivity the number present is
distributed as in a birth-and-death chain with departure rates n / residence(n), whatever the
lengths. Beyond `slots` requests wait. Replicas behind one dispatcher that looks at their work are
taken as one queue with all their slots (for equal ones the simulator agrees to a few points).

Sources: Cohen, "The multiple phase service network with generalized processor sharing", Acta
Informatica 12 (1979); Erlang C for the wait, its tail stretched by the variation of arrivals and
service as in Whitt, "Approximations for the GI/G/m queue", Production and Operations Management 2
(1993), which for a constant service and Poisson arrivals halves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from motley_planner.costs.memory import kv_bytes, resident_tokens
from motley_planner.costs.replica import Replica
from motley_planner.domain.hardware import Gpu

HALVINGS = 10  # a utilisation to three digits
# Squared coefficient of variation of the gaps between requests; 1 is Poisson. 1.20 in the hour of
# Azure's conversation service (AzurePublicDataset@b469a11, 2023).
ARRIVAL_VARIATION = 1.2
# Prompt tokens an engine takes into one step beside the running sequences, by the GPU's memory: what
# vLLM's API server does unless told otherwise (vllm/engine/arg_utils.py, get_batch_defaults; the
# largest tier from 0.28 on). An A100 counts as small.
STEP_TOKENS = ((160e9, 16384.0), (70e9, 8192.0), (0.0, 2048.0))


@dataclass(frozen=True, slots=True)
class Service:
    """One replica as a queue: what a request needs of it, and how long it may wait there.

    residence(n) of one of n requests = n prefill + output tokens x step(n).
    """

    prefill_s: float
    output_tokens: float
    steps_s: tuple[tuple[int, float], ...]  # (sequences, seconds of a decode step), to the slots
    prompt_s: float  # a step with the longest prompt in it: what a prompt waits for
    slack_s: float  # how long a request may wait, at `quantile`
    quantile: float

    @property
    def slots(self) -> int:
        """Sequences that run at once."""
        return self.steps_s[-1][0]

    @property
    def most_per_second(self) -> float:
        """Requests/s with every slot in use: slots / residence(slots)."""
        return self.slots / (self.slots * self.prefill_s + self.output_tokens * self.steps_s[-1][1])


def step_tokens(gpu: Gpu) -> float:
    """Prompt tokens that one step takes on a GPU; longer prompts are spread over several."""
    if gpu.arch == "sm80":
        return STEP_TOKENS[-1][1]
    return next(tokens for least, tokens in STEP_TOKENS if gpu.hbm_bytes >= least)


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


def utilization_cap(servers: int, service: Service, most: float = 1.0) -> float:
    """The largest share (0..most) of `servers` replicas' rate at which requests wait no longer.

    The largest rho <= most with P(wait for a slot > slack) + P(wait behind other prompts > slack)
    <= 1 - quantile; 0 where there is no slack at all.
    """
    if service.slack_s < 0.0:
        return 0.0
    weights = _weights(servers, service.prefill_s, service.output_tokens, service.steps_s)
    missing = 1.0 - service.quantile

    def holds(rho: float) -> bool:
        late = prompt_wait(servers, service, rho)
        return late <= missing and late + slot_wait(servers, service, weights, rho) <= missing

    if most < 1.0 and holds(most):
        return most
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def slot_wait(servers: int, service: Service, weights: NDArray[np.float64], rho: float) -> float:
    """P(a request waits for a slot longer than the slack) at a share rho < 1 of the pool's rate.

    P(all slots taken) exp(-2 (1 - rho) M slack / (c2 + 1)), M: requests/s of the whole pool, c2: of
    arrivals; lengths inside a class are taken to vary as exponential ones do.
    """
    if rho <= 0.0:
        return 0.0
    if rho >= 1.0:
        return 1.0
    terms = weights[0] + weights[1] * log(rho)
    chances = np.exp(terms - terms.max())
    last = float(chances[-1])
    waiting = last / (1.0 - rho)
    full = waiting / (float(chances.sum()) - last + waiting)
    drain = 2.0 * (1.0 - rho) * servers * service.most_per_second / (ARRIVAL_VARIATION + 1.0)
    return full * exp(-drain * service.slack_s)


def prompt_wait(servers: int, service: Service, rho: float) -> float:
    """P(a prompt waits for prompts before it longer than the slack).

    Erlang C x exp(-2 c (1 - u) slack / (c2 s)): c servers of constant service s. Prompts that share a
    step wait for its decode part once, so there is a second bound, s = prefill alone with two
    steps taken off the slack; the smaller one counts.
    """
    rate, step = rho * service.most_per_second, service.steps_s[-1][1]
    apart = late_share(servers, rate * service.prompt_s, service.prompt_s, service.slack_s)
    busy = rate * service.prefill_s
    left = service.slack_s - 2.0 * step / max(1e-9, 1.0 - busy)
    together = late_share(servers, busy, service.prompt_s - step, left) if left > 0.0 else 1.0
    return min(apart, together)


def late_share(servers: int, utilization: float, service_s: float, slack_s: float) -> float:
    """P(one of `servers` equal servers of a constant service is free only after the slack)."""
    if slack_s < 0.0:
        return 1.0
    if utilization >= 1.0:
        return 1.0
    if service_s <= 0.0 or utilization <= 0.0:
        return 0.0
    drain = 2.0 * servers * (1.0 - utilization) / (service_s * ARRIVAL_VARIATION)
    return erlang_c(servers, servers * utilization) * exp(-drain * slack_s)


def erlang_c(servers: int, offered: float) -> float:
    """P(an arrival waits) with `servers` servers and `offered` erlangs, below `servers`."""
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    share = offered / servers
    return blocked / (1.0 - share + share * blocked) if share < 1.0 else 1.0


@lru_cache(maxsize=4096)
def _weights(
    servers: int, prefill_s: float, output_tokens: float, steps_s: tuple[tuple[int, float], ...]
) -> NDArray[np.float64]:
    """ln of the chain's unnormalized chances of k = 0 .. servers x slots requests at rho = 1, and k.

    Departures of k requests: c x rate(k / c), rate(n) = n / residence(n).
    """
    slots = steps_s[-1][0]
    present = np.arange(1, servers * slots + 1) / servers
    known, times = np.array(steps_s).T
    residence = present * prefill_s + output_tokens * np.interp(present, known, times)
    rates = present / residence
    chances = np.concatenate([[0.0], np.cumsum(np.log(rates[-1] / rates))])
    return np.stack([chances, np.arange(len(chances))])
