"""The front door: configurations to predicted latencies, in order, each or a reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from motley_planner.costs.closed_loop import Load, latency, running_sequences
from motley_planner.costs.replica import Replica
from motley_planner.domain.hardware import Catalog
from motley_planner.prediction.rows import Configuration
from motley_planner.prediction.systems import Setup, Setups


@dataclass(frozen=True, slots=True)
class Prediction:
    """Mean latencies of a configuration in steady state, or `refused`: why there are none.

    `tpot_low_s` and `tpot_high_s` hold the measured TPOT of about 80 % of rows of models and GPUs
    that the fit did not see together. Requests of one output token have no TPOT.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    tpot_low_s: float | None = None
    tpot_high_s: float | None = None
    refused: str = ""


def predict(rows: Iterable[Configuration], catalog: Catalog) -> Iterator[Prediction]:
    """One prediction a row, in order. Raises: nothing; what cannot be predicted says why."""
    setups = Setups(catalog)
    for row in rows:
        setup = setups.of(row)
        yield Prediction(refused=setup) if isinstance(setup, str) else _predicted(row, setup)


def _predicted(row: Configuration, setup: Setup) -> Prediction:
    replica = setup.replica
    longest = replica.model.max_context_tokens
    if row.isl + row.osl > longest:
        tokens = f"{row.isl + row.osl:.0f} tokens"
        return Prediction(refused=f"context: {tokens}; {replica.model.name} takes {longest}")
    load = load_of(row, setup)
    if running_sequences(replica, load, setup.stages) < 1.0:
        tokens = f"{row.isl + row.osl:.0f} tokens"
        return Prediction(refused=f"does not fit: one request of {tokens} beside the weights")
    found = latency(replica, load, setup.stages)
    low, high = band_of(replica)
    throughput = found.tokens_per_s(load) / row.gpus
    if row.osl <= 1.0:
        return Prediction(ttft_s=found.ttft_s, tokens_per_s_per_gpu=throughput)
    return Prediction(
        ttft_s=found.ttft_s,
        tpot_s=found.tpot_s,
        tokens_per_s_per_gpu=throughput,
        tpot_low_s=found.tpot_s * low,
        tpot_high_s=found.tpot_s * high,
    )


def load_of(row: Configuration, setup: Setup) -> Load:
    """The load of a row: its concurrency is that of each attention group."""
    cached = row.prefix_hit_rate * row.isl
    return Load(row.concurrency * setup.groups, row.isl, row.osl, cached)


def band_of(replica: Replica) -> tuple[float, float]:
    """Measured over predicted TPOT, 10th and 90th percentile of unseen rows of this kind."""
    return replica.efficiency.bands[kind_of(replica)]


def kind_of(replica: Replica) -> str:
    """dense, moe or latent: the kinds of models whose errors differ."""
    if replica.model.kv_lora_rank:
        return "latent"
    return "moe" if replica.model.experts else "dense"
