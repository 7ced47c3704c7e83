"""A replica as engines were measured to run it, and what the model says of a measured load.

One factor for all that a replica computes: decode steps and prefills alike. Engines' handling of a
request, which no step waits for, stays as modeled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from motley_planner.costs.capacity import first_token_wait_s
from motley_planner.costs.rates import Rates
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import decode_step_s, prefill_s
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.measurements import LearnedKey

_PER_SECOND = (
    "dense_flop_per_s",
    "dense_bytes_per_s",
    "head_flop_per_s",
    "head_bytes_per_s",
    "expert_flop_per_s",
    "expert_bytes_per_s",
    "kv_bytes_per_s",
    "attention_flop_per_s",
    "link_bytes_per_s",
)
_SECONDS = ("message_s", "message_ramp_s", "layer_s", "step_s", "sequence_s", "first_layer_s")


@dataclass(frozen=True, slots=True)
class MeasuredLoad:
    """What one replica was seen to do: means over requests that arrive as they please."""

    in_flight: float  # requests past their first token, mean over time
    prompt_tokens: float
    output_tokens: float
    slots: int  # requests that it runs at once
    output_variation: float = 1.0  # squared coefficient of variation of output lengths


def slowed(replica: Replica, factor: float) -> Replica:
    """The replica with each decode step and each prefill taking `factor` times as long."""
    engine = replica.engine
    return replace(
        replica,
        rates=_scaled(replica.rates, factor),
        engine=replace(
            engine,
            layer_overhead_s=engine.layer_overhead_s * factor,
            step_overhead_s=engine.step_overhead_s * factor,
        ),
    )


def _scaled(rates: Rates, factor: float) -> Rates:
    changed = {name: getattr(rates, name) / factor for name in _PER_SECOND}
    changed |= {name: getattr(rates, name) * factor for name in _SECONDS}
    return replace(rates, **changed)


def as_learned(replica: Replica, precision: str, catalog: Catalog) -> Replica:
    """The replica at the speed that was learned of its configuration; itself where none was."""
    found = catalog.learned.get(key_of(replica, precision))
    return replica if found is None or found.value == 1.0 else slowed(replica, found.value)


def key_of(replica: Replica, precision: str) -> LearnedKey:
    """The configuration of a replica on one node."""
    names = replica.model.name, replica.gpu.name, replica.tensor_parallel
    return LearnedKey(*names, precision, replica.engine.name)


@dataclass(frozen=True, slots=True)
class PredictedTpot:
    """Seconds per output token, by what takes them: decode steps, and prompts of others."""

    steps_s: float
    prompts_s: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.steps_s + self.prompts_s


def predicted_tpot(replica: Replica, load: MeasuredLoad) -> PredictedTpot:
    """Mean TPOT that the model gives a measured load.

    decode(n) + (n - 1) x prefill / output tokens, n = min(in flight + 1, slots): whoever arrives
    by chance finds the mean over time before it and makes one more (PASTA), up to a full batch.
    The context is the mean over what is in flight, where long answers stay longer:
    prompt + output (1 + c2) / 2.
    """
    present = max(1.0, min(load.in_flight + 1.0, float(load.slots)))
    prompt = prefill_s(replica, max(1.0, load.prompt_tokens))
    step = decode_step_s(replica, present, _context_tokens(load))
    return PredictedTpot(step, (present - 1.0) * prompt / max(1.0, load.output_tokens))


def _context_tokens(load: MeasuredLoad) -> float:
    return load.prompt_tokens + load.output_tokens * (1.0 + load.output_variation) / 2.0


def predicted_ttft_s(replica: Replica, load: MeasuredLoad, requests_per_s: float) -> float:
    """Mean seconds to the first token while slots are free: handling, a step, prefill, other prompts."""
    prompt = prefill_s(replica, max(1.0, load.prompt_tokens))
    slower = replica.efficiency.moe_prefill if replica.model.experts else 1.0
    present = max(1.0, min(load.in_flight, float(load.slots)))
    busy = min(0.99, requests_per_s * prompt)
    wait = first_token_wait_s(busy, prompt, 0.0)
    step = decode_step_s(replica, present, _context_tokens(load))
    return replica.engine.first_token_overhead_s + step + slower * prompt + wait
