"""What a replica serves within its SLO, colocated or in one phase: the model behind ThunderServe.

A roofline for time, M/D/1 for waiting, and one effect that colocated replicas have alone: a prefill
stalls the decodes beside it. A request that decodes s tokens at tpot seconds each sees a Poisson
number of stalls with mean rate x s x tpot; at the SLO's percentile

    tpot = step(batch) + prefill_s x quantile(rate s tpot) / s      <= the SLO on TPOT
    ttft = prefill_s + wait(rate) + step(batch)                     <= the SLO on TTFT

A decode replica has no stalls but waits once for the KV cache: tpot = step + transfer_s / s.
The batch is limited by KV memory, and rate x s x tpot <= batch (Little).

Source: DistServe's M/D/1 estimate (Zhong et al., OSDI 2024), used by ThunderServe, arXiv 2502.09334,
section on its estimator; stalls by prefill are our completion of "interference".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

PERCENTILE = 0.9
MFU, MBU = 0.5, 0.7  # attained share of peak FLOP/s and of memory bandwidth
USABLE_MEMORY = 0.9
HALVINGS = 40


@dataclass(frozen=True, slots=True)
class DenseModel:
    """Sizes of a dense transformer in 16 bit; `kv_heads` x `head_size` is the KV width."""

    parameters: float
    layers: int
    hidden: int
    kv_width: int
    bytes_per_element: int = 2

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.bytes_per_element

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of K and V of one token over all layers."""
        return 2.0 * self.layers * self.kv_width * self.bytes_per_element


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """`tp` equal GPUs that work as one, and the link between them."""

    flop_per_s: float
    memory_bytes_per_s: float
    memory_bytes: float
    tp: int
    link_bytes_per_s: float = 20e9
    link_latency_s: float = 1e-5


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths of a request and its SLO at the 90th percentile."""

    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float


def prefill_s(model: DenseModel, group: GpuGroup, tokens: int) -> float:
    """Seconds of one prompt's prefill: max(FLOP / peak, weights / bandwidth) + all-reduces."""
    compute = 2.0 * model.parameters * tokens / (MFU * group.flop_per_s * group.tp)
    memory = model.weight_bytes / (MBU * group.memory_bytes_per_s * group.tp)
    return max(compute, memory) + _all_reduce_s(model, group, tokens)


def step_s(model: DenseModel, group: GpuGroup, batch: int, context_tokens: float) -> float:
    """Seconds of one decode step: (weights + KV of the batch) / bandwidth + all-reduces."""
    read = model.weight_bytes + batch * context_tokens * model.kv_bytes_per_token
    return read / (MBU * group.memory_bytes_per_s * group.tp) + _all_reduce_s(model, group, batch)


def _all_reduce_s(model: DenseModel, group: GpuGroup, tokens: float) -> float:
    if group.tp == 1:
        return 0.0
    moved = tokens * model.hidden * model.bytes_per_element * 2.0 * (group.tp - 1) / group.tp
    return 2.0 * model.layers * (moved / group.link_bytes_per_s + 2.0 * group.link_latency_s)


def largest_batch(model: DenseModel, group: GpuGroup, context_tokens: int) -> int:
    """Requests whose KV caches fit beside the weights."""
    room = USABLE_MEMORY * group.memory_bytes * group.tp - model.weight_bytes
    return max(0, int(room / (context_tokens * model.kv_bytes_per_token)))


def wait_s(service_s: float, rate: float) -> float:
    """90th percentile of waiting in M/D/1, by the exponential tail of heavy traffic.

    service rho / (2 (1 - rho)) ln(10 rho), 0 below rho = 0.1.
    """
    rho = rate * service_s
    if rho >= 1:
        return math.inf
    return service_s * rho / (2 * (1 - rho)) * max(0.0, math.log(10 * rho)) if rho else 0.0


def poisson_quantile(mean: float, share: float) -> int:
    """The smallest k with P(N <= k) >= share."""
    term = total = math.exp(-mean)
    k = 0
    while total < share and k < 10_000:
        k += 1
        term *= mean / k
        total += term
    return k


def prefill_rate(model: DenseModel, group: GpuGroup, load: Workload) -> float:
    """Requests/s of a prefill replica within the SLO on TTFT."""
    service = prefill_s(model, group, load.prompt_tokens)
    if largest_batch(model, group, load.prompt_tokens) < 1:
        return 0.0
    return _largest(1 / service, lambda rate: service + wait_s(service, rate) <= load.ttft_s)


def decode_rate(
    model: DenseModel, group: GpuGroup, load: Workload, transfer_s: float = 0.0
) -> float:
    """Requests/s of a decode replica within the SLO on TPOT, KV arriving in `transfer_s`."""
    best, context = 0.0, load.prompt_tokens + load.output_tokens / 2
    whole = load.prompt_tokens + load.output_tokens
    for batch in range(1, largest_batch(model, group, whole) + 1):
        step = step_s(model, group, batch, context)
        if step + transfer_s / load.output_tokens <= load.tpot_s:
            best = max(best, batch / (step * load.output_tokens))
    return best


def colocated_rate(
    model: DenseModel, group: GpuGroup, load: Workload, *, interference: bool = True
) -> float:
    """Requests/s of a replica that does both phases within both SLOs.

    Without `interference` a stall is spread evenly over all requests instead of at its percentile.
    """
    service = prefill_s(model, group, load.prompt_tokens)
    context, out = load.prompt_tokens + load.output_tokens / 2, load.output_tokens
    best = 0.0
    for batch in range(1, largest_batch(model, group, load.prompt_tokens + out) + 1):
        step = step_s(model, group, batch, context)

        def holds(rate: float, step: float = step, batch: int = batch) -> bool:
            mean = step / (1 - rate * service)
            stalls = rate * out * mean
            if interference:
                stalls = poisson_quantile(stalls, PERCENTILE)
            tpot = step + service * stalls / out
            ttft = service + step + wait_s(service, rate)
            return tpot <= load.tpot_s and ttft <= load.ttft_s and rate * out * mean <= batch

        best = max(best, _largest(1 / (service + out * step / batch), holds))
    return best


def _largest(most: float, holds: Callable[[float], bool]) -> float:
    """The largest rate up to `most` that holds, by halving."""
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
