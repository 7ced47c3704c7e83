"""Seconds and bytes of a replica that is cut into groups of layers over unlike GPUs.

Theory of operation. Every fragment runs its own layers; layers are taken as alike, so a fragment of
l of L layers takes l / L of what the whole body of the model would take on its GPUs. The first
fragment holds the embedding, the last one lm_head. B sequences go round as m = min(stages, B)
micro-batches, so that every fragment is busy; a link is a stage as well:

    step = max( m max_i (t_i, hop_i),  sum_i t_i + sum_i hop_i ),   t_i at B / m sequences

One prompt passes all fragments one after the other, and takes the time of the slowest of them from
everybody else. The KV cache is as large as the fragment with the least room for it allows.

All of it comes from the functions of costs.steps on a model without its vocabulary; what the
vocabulary costs is the difference to the whole model. Source of the schedule: GPipe, vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from motley_planner.costs.memory import kv_bytes, resident_tokens, usable_bytes
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import (
    ACTIVATION_BYTES,
    decode_step_s,
    overhead_s,
    prefill_s,
)
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.fabric import Fabric
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.hardware import Catalog, Efficiency, Gpu
from motley_planner.domain.models import ModelSpec


@dataclass(frozen=True, slots=True)
class Part:
    """A model on `tensor_parallel` GPUs of one type, of which a fragment runs some layers."""

    whole: Replica
    body: Replica  # the same model without embedding and lm_head

    @property
    def layers(self) -> int:
        """Layers of the whole model."""
        return self.whole.model.layers

    @property
    def usable_bytes(self) -> float:
        """Bytes that weights and KV cache may take on these GPUs."""
        whole = self.whole
        return usable_bytes(whole.gpu, whole.engine, whole.tensor_parallel)

    @property
    def layer_bytes(self) -> float:
        """Bytes of one layer's weights."""
        return self.body.weight_bytes / self.layers

    @property
    def vocabulary_bytes(self) -> float:
        """Bytes of the embedding, and of lm_head: each is V h weights."""
        model = self.whole.model
        return model.vocabulary * model.hidden * self.whole.path.weight_bytes

    @property
    def fixed_s(self) -> float:
        """Seconds of a step that do not depend on the layers."""
        return overhead_s(self.body) - self.layers * self.body.engine.layer_overhead_s


def part_of(
    model: ModelSpec,
    precision: str,
    gpu: Gpu,
    tensor_parallel: int,
    engine: EngineSpec,
    efficiency: Efficiency,
) -> Part | str:
    """The part, or why these GPUs cannot run the model at that precision.

    Six parameters, as `replica_of` has them.
    """
    whole = replica_of(model, precision, gpu, tensor_parallel, engine, efficiency)
    if isinstance(whole, str):
        return whole
    bare = replace(model, vocabulary=0, parameters=None)
    body = replica_of(bare, precision, gpu, tensor_parallel, engine, efficiency)
    assert isinstance(body, Replica), "the same GPUs run the same layers"
    return Part(whole, body)


def decode_layer_s(part: Part, batch: float, context_tokens: float) -> float:
    """Seconds one layer takes for one decode step of `batch` sequences."""
    whole = decode_step_s(part.body, batch, context_tokens)
    return (whole - part.fixed_s) / part.layers


def decode_head_s(part: Part, batch: float) -> float:
    """Seconds lm_head takes for one decode step of `batch` sequences."""
    with_it, without = (decode_step_s(one, batch, 1.0) for one in (part.whole, part.body))
    return max(0.0, with_it - without)


def prefill_layer_s(part: Part, prompt_tokens: float) -> float:
    """Seconds one layer takes for the prefill of one prompt."""
    return (prefill_s(part.body, prompt_tokens) - part.fixed_s) / part.layers


def prefill_head_s(part: Part, prompt_tokens: float) -> float:
    """Seconds lm_head takes for the prefill of one prompt."""
    with_it, without = (prefill_s(one, prompt_tokens) for one in (part.whole, part.body))
    return max(0.0, with_it - without)


def kv_layer_bytes(part: Part, tokens: float) -> float:
    """Bytes of one layer's KV cache of a sequence of `tokens` tokens, over all ranks."""
    whole = kv_bytes(part.body.model, tokens, part.body.kv_value_bytes)
    return whole * part.body.kv_replication / part.layers


def hop_s(tokens: float, model: ModelSpec, nic_bytes_per_s: float, latency_s: float) -> float:
    """Seconds the activations of `tokens` tokens take from one fragment to the next."""
    return latency_s + tokens * model.hidden * ACTIVATION_BYTES / nic_bytes_per_s


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Parts in the order of the layers, and how many layers each of them runs."""

    parts: tuple[Part, ...]
    layers: tuple[int, ...]
    fabric: Fabric

    def decode_step_s(self, batch: float, context_tokens: float) -> float:
        """Seconds until every one of `batch` sequences has its next token."""
        rounds = min(float(len(self.parts)), batch)
        each = batch / rounds
        times = [
            layers * decode_layer_s(part, each, context_tokens) + part.fixed_s
            for part, layers in zip(self.parts, self.layers, strict=True)
        ]
        times[-1] += decode_head_s(self.parts[-1], each)
        hops = self._hops_s(each)
        return max(rounds * max(*times, *hops, 0.0), sum(times) + sum(hops))

    def prefill_times_s(self, prompt_tokens: float) -> list[float]:
        """Seconds each fragment, then each link, takes for one prompt."""
        times = [
            layers * prefill_layer_s(part, prompt_tokens) + part.fixed_s
            for part, layers in zip(self.parts, self.layers, strict=True)
        ]
        times[-1] += prefill_head_s(self.parts[-1], prompt_tokens)
        return times + self._hops_s(prompt_tokens)

    def prefill_s(self, prompt_tokens: float) -> float:
        """Seconds the prefill of one prompt takes, alone."""
        return sum(self.prefill_times_s(prompt_tokens))

    def free_bytes(self) -> list[float]:
        """Bytes left for KV cache on each fragment; negative where its weights do not fit."""
        free = []
        for i, (part, layers) in enumerate(zip(self.parts, self.layers, strict=True)):
            ends = (i == 0) + (i == len(self.parts) - 1)
            if len(self.parts) == 1 and part.whole.model.tied_embeddings:
                ends = 1
            free.append(
                part.usable_bytes - layers * part.layer_bytes - ends * part.vocabulary_bytes
            )
        return free

    def most_sequences(self, prompt_tokens: float, output_tokens: float) -> float:
        """Sequences of one kind that fit: the least of any fragment; 0 if weights do not fit."""
        tokens = resident_tokens(prompt_tokens, output_tokens)
        rooms = zip(self.free_bytes(), self.parts, self.layers, strict=True)
        fits = [
            free / (layers * kv_layer_bytes(part, tokens)) if free > 0 else 0.0
            for free, part, layers in rooms
        ]
        return min(fits)

    def _hops_s(self, tokens: float) -> list[float]:
        share = self.parts[0].whole.efficiency.network
        nics = [self.fabric.nic_of(part.whole.gpu.name) * share for part in self.parts]
        return [
            hop_s(tokens, self.parts[0].whole.model, min(pair), self.fabric.hop_latency_s)
            for pair in pairwise(nics)
        ]


def pipeline_of(
    model: ModelSpec,
    precision: str,
    fragments: tuple[ReplicaFragment, ...],
    engine: EngineSpec,
    catalog: Catalog,
) -> Pipeline | str:
    """The pipeline of fragments with stated layers, or why it cannot run: "memory" among others."""
    assert catalog.efficiency is not None and catalog.fabric is not None, (
        "load_catalog() gives both"
    )
    if sum(f.layers for f in fragments) != model.layers or any(f.layers < 1 for f in fragments):
        return f"the fragments' layers do not add up to {model.layers}"
    parts = []
    for f in fragments:
        gpu = catalog.gpus[f.gpu]
        part = part_of(model, precision, gpu, f.tensor_parallel, engine, catalog.efficiency)
        if isinstance(part, str):
            return part
        parts.append(part)
    pipeline = Pipeline(tuple(parts), tuple(f.layers for f in fragments), catalog.fabric)
    return "memory" if min(pipeline.free_bytes()) <= 0 else pipeline
