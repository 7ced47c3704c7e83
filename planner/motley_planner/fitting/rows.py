"""Measured rows as arrays: the work of each row, and which factors its rates are made of."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from motley_planner.costs.closed_loop import Load, running_sequences
from motley_planner.costs.rates import (
    FIRST_LAYER_TERMS,
    LAYER_TERMS,
    Rates,
    Term,
    rate_terms,
)
from motley_planner.costs.replica import Replica, spread_terms
from motley_planner.costs.work import (
    LinearWork,
    MessageWork,
    kv_read_bytes,
    linear_work,
    message_work,
    prompt_attention_flop,
)
from motley_planner.domain.hardware import Catalog
from motley_planner.prediction.front import kind_of, load_of
from motley_planner.prediction.rows import Configuration, read_configuration
from motley_planner.prediction.systems import Setup, Setups

# Arrays stand where the cost model has floats: its arithmetic works element by element.
Array = Any


@dataclass(frozen=True, slots=True)
class Measured:
    """One usable row: the configuration, its replica, and what was measured."""

    row: Mapping[str, str]
    configuration: Configuration
    setup: Setup
    load: Load
    running: float
    ttft_s: float
    tpot_s: float

    @property
    def group(self) -> tuple[object, ...]:
        """Rows of one architecture on one GPU type, whatever the checkpoint is called."""
        replica = self.setup.replica
        return (replace(replica.model, name="", parameters=None), replica.gpu.name)

    @property
    def kind(self) -> str:
        """dense, moe or latent."""
        return kind_of(self.setup.replica)


def read_measured(path: Path, catalog: Catalog) -> list[Measured]:
    """The unflagged rows of a file that the cost model can describe."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if not row.get("flags")]
    setups, found = Setups(catalog), []
    for row in rows:
        configuration = read_configuration(row)
        setup = setups.of(configuration)
        if isinstance(setup, str):
            continue
        load = load_of(configuration, setup)
        running = running_sequences(setup.replica, load, setup.stages)
        if running >= 1.0:
            times = float(row["ttft_ms"]) / 1e3, float(row["tpot_ms"]) / 1e3
            found.append(Measured(row, configuration, setup, load, running, *times))
    return found


@dataclass(frozen=True, slots=True)
class Stack:
    """All rows at once; every field is an array with one entry a row."""

    decode: LinearWork
    prefill: LinearWork
    decode_messages: MessageWork
    prefill_messages: MessageWork
    kv_bytes: Array
    attention_flop: Array
    layers: Array
    groups: Array
    sequences: Array  # running, of one attention group
    others: Array
    output: Array
    ttft_s: Array
    tpot_s: Array


def stack_of(measured: Sequence[Measured]) -> Stack:
    """The rows' work; nothing in it depends on a factor."""
    decode, prefill, first, second, kv, attention = [], [], [], [], [], []
    for one in measured:
        replica, load = one.setup.replica, one.load
        groups = replica.layout.attention_dp
        context = load.prompt_tokens + load.output_tokens / 2.0
        prompt = load.prompt_tokens * groups
        decode.append(linear_work(replica, one.running, one.running))
        prefill.append(linear_work(replica, prompt, float(groups)))
        first.append(message_work(replica, one.running))
        second.append(message_work(replica, prompt))
        kv.append(kv_read_bytes(replica, one.running, context))
        attention.append(prompt_attention_flop(replica, load.prompt_tokens, 0.0))
    groups_of = np.array([one.setup.replica.layout.attention_dp for one in measured], float)
    sequences = np.array([one.running for one in measured]) / groups_of
    return Stack(
        decode=_stacked(LinearWork, decode),
        prefill=_stacked(LinearWork, prefill),
        decode_messages=_stacked(MessageWork, first),
        prefill_messages=_stacked(MessageWork, second),
        kv_bytes=np.array(kv),
        attention_flop=np.array(attention),
        layers=np.array([one.setup.replica.model.layers for one in measured], float),
        groups=groups_of,
        sequences=sequences,
        others=np.maximum(0.0, sequences - 1.0),
        output=np.array([one.load.output_tokens for one in measured]),
        ttft_s=np.array([one.ttft_s for one in measured]),
        tpot_s=np.array([one.tpot_s for one in measured]),
    )


def _stacked(kind: Any, works: Sequence[Any]) -> Any:
    columns = {f.name: np.array([getattr(w, f.name) for w in works]) for f in fields(kind)}
    return kind(**columns)


class RateTable:
    """The rates of all rows as a function of the factors: base x exp(incidence @ log factors)."""

    def __init__(self, measured: Sequence[Measured], names: Sequence[str]) -> None:
        self.names = tuple(names)
        setups = list(dict.fromkeys(id(one.setup) for one in measured))
        by_id = {id(one.setup): one.setup for one in measured}
        index = {key: position for position, key in enumerate(setups)}
        self.index = np.array([index[id(one.setup)] for one in measured])
        terms = [terms_of(by_id[key].replica) for key in setups]
        self.rates = {name: self._rate([one[name] for one in terms]) for name in terms[0]}

    def _rate(self, terms: Sequence[Term]) -> tuple[Array, Array]:
        base = np.array([term.base for term in terms])
        incidence = np.zeros((len(terms), len(self.names)))
        position = {name: column for column, name in enumerate(self.names)}
        for line, term in enumerate(terms):
            for name in term.factors:
                incidence[line, position[name]] += 1.0
        return base, incidence

    def at(self, logs: Array) -> Rates:
        """The rates at logarithms of the factors, one entry a row."""
        found = {
            name: (base * np.exp(incidence @ logs))[self.index]
            for name, (base, incidence) in self.rates.items()
        }
        layer = sum(found.pop(name) for name in LAYER_TERMS)
        first = sum(found.pop(name) for name in FIRST_LAYER_TERMS)
        return Rates(layer_s=layer, first_layer_s=first, **found)


def terms_of(replica: Replica) -> dict[str, Term]:
    """The terms that a replica's rates are the values of."""
    gpu, efficiency = replica.gpu, replica.efficiency
    terms = rate_terms(replica.model, gpu, replica.path, replica.engine, efficiency)
    return terms | spread_terms(gpu, replica.tensor_parallel, replica.layout, efficiency)
