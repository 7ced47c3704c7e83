"""What every kind of fragment (GPU type, TP) takes and holds, as arrays for all pipelines at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.candidates.layering import Floats
from motley_planner.candidates.targets import Target
from motley_planner.costs.memory import resident_tokens
from motley_planner.costs.pipeline import (
    Part,
    decode_head_s,
    decode_layer_s,
    kv_layer_bytes,
    part_of,
    prefill_head_s,
    prefill_layer_s,
)
from motley_planner.domain.demand import WorkloadClass
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.fabric import Fabric
from motley_planner.domain.hardware import Efficiency, Gpu
from motley_planner.domain.models import ModelSpec

TENSOR_PARALLEL = (1, 2, 4, 8)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_STAGES = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything that the pipelines of one stage depend on; counts of nodes are not among it."""

    model: ModelSpec
    precision: str
    engine: EngineSpec
    efficiency: Efficiency
    fabric: Fabric
    gpus: tuple[Gpu, ...]  # of one vendor, by name
    classes: tuple[WorkloadClass, ...]
    targets: tuple[Target, ...]
    busy: float  # share of capacity that is planned for
    max_tensor: int
    depth: int  # fragments of a replica, at most


@dataclass(frozen=True, slots=True)
class Grid:
    """Arrays by kind of fragment, fastest kind first; classes by prefill work per output token."""

    problem: Problem
    parts: tuple[Part, ...]
    classes: tuple[WorkloadClass, ...]
    micro: tuple[float, ...]  # sizes of micro-batches
    decode_s: Floats  # a layer: kind, micro-batch, class whose context all have
    decode_head_s: Floats  # kind, micro-batch
    prefill_s: Floats  # a layer: kind, class
    prefill_head_s: Floats  # kind, class
    fixed_s: Floats  # kind
    usable_bytes: Floats
    layer_bytes: Floats
    vocabulary_bytes: Floats
    kv_bytes: Floats  # a layer and sequence: kind, class
    nic_bytes_per_s: Floats
    tensor_parallel: Floats
    prompt_tokens: Floats  # class
    output_tokens: Floats
    context_tokens: Floats


def grid_of(problem: Problem) -> Grid | None:
    """The arrays of a problem; None where no GPU runs the model or no class fits its context."""
    parts = _parts(problem)
    longest = problem.model.max_context_tokens
    classes = [c for c in problem.classes if c.prompt_tokens + c.output_tokens <= longest]
    if not parts or not classes:
        return None
    classes.sort(key=lambda c: (prefill_layer_s(parts[0], _prompt(c)) / _output(c), c.name))
    micro = tuple(sorted({b / min(s, b) for s in range(1, MOST_STAGES + 1) for b in BATCHES}))
    prompts = [_prompt(c) for c in classes]
    contexts = [_prompt(c) + _output(c) / 2.0 for c in classes]
    held = [resident_tokens(_prompt(c), _output(c)) for c in classes]
    nics = [problem.fabric.nic_of(p.whole.gpu.name) * problem.efficiency.network for p in parts]
    return Grid(
        problem=problem,
        parts=parts,
        classes=tuple(classes),
        micro=micro,
        decode_s=_array(
            [[[decode_layer_s(p, b, c) for c in contexts] for b in micro] for p in parts]
        ),
        decode_head_s=_array([[decode_head_s(p, b) for b in micro] for p in parts]),
        prefill_s=_array([[prefill_layer_s(p, tokens) for tokens in prompts] for p in parts]),
        prefill_head_s=_array([[prefill_head_s(p, tokens) for tokens in prompts] for p in parts]),
        fixed_s=_array([p.fixed_s for p in parts]),
        usable_bytes=_array([p.usable_bytes for p in parts]),
        layer_bytes=_array([p.layer_bytes for p in parts]),
        vocabulary_bytes=_array([p.vocabulary_bytes for p in parts]),
        kv_bytes=_array([[kv_layer_bytes(p, tokens) for tokens in held] for p in parts]),
        nic_bytes_per_s=_array(nics),
        tensor_parallel=_array([p.whole.tensor_parallel for p in parts]),
        prompt_tokens=_array(prompts),
        output_tokens=_array([_output(c) for c in classes]),
        context_tokens=_array(contexts),
    )


def _parts(problem: Problem) -> tuple[Part, ...]:
    """Every kind of fragment that can run the model, the one with the most bandwidth first."""
    found = []
    for gpu in problem.gpus:
        for ranks in TENSOR_PARALLEL:
            if ranks > problem.max_tensor or problem.model.heads % ranks:
                continue
            part = part_of(
                problem.model, problem.precision, gpu, ranks, problem.engine, problem.efficiency
            )
            if isinstance(part, Part):
                found.append(part)
    return tuple(sorted(found, key=_speed))


def _speed(part: Part) -> tuple[float, float, str]:
    """By bandwidth, then memory, of all its GPUs: the datasheet's, so that no fit changes an order."""
    ranks, gpu = part.whole.tensor_parallel, part.whole.gpu
    return -ranks * gpu.hbm_bytes_per_s, -ranks * gpu.hbm_bytes, gpu.name


def _prompt(c: WorkloadClass) -> float:
    return float(max(1, c.prompt_tokens))


def _output(c: WorkloadClass) -> float:
    return float(max(1, c.output_tokens))


def _array(values: Sequence[object]) -> Floats:
    return np.array(values, dtype=np.float64)
