"""The best pipeline for a group of GPUs: TP degrees by machine, layers by dynamic programming.

A TP group lies within one machine and one GPU type. For each way to cut the machines into TP groups
the layers are spread so that the slowest stage is as fast as possible within memory:

    best(j, n) = min over l of max(best(j - 1, n - l), stage_s(j, l))

and of all cuts the pipeline with the least time for a batch wins. All GPUs of the group are used,
as in HexGen, where the genetic search decides what the group is.

Source: HexGen, ICML 2024, arXiv 2311.11514: dynamic programming for a fixed group of devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from motley_planner.strategies.hexgen_cost import (
    USABLE_MEMORY,
    Device,
    Job,
    Link,
    Stage,
    Transformer,
    memory_bytes,
    pipeline_s,
    stage_s,
)


@dataclass(frozen=True, slots=True)
class Machine:
    """`count` equal GPUs with a link among them."""

    device: Device
    count: int
    link: Link


def best_pipeline(
    model: Transformer, machines: Sequence[Machine], between: Link, job: Job
) -> tuple[Stage, ...] | None:
    """The pipeline over all GPUs of the machines that takes a batch the least time; None if none fits."""
    best: tuple[Stage, ...] | None = None
    for cut in product(*(_cuts(m.count) for m in machines)):
        stages = [
            Stage((machine.device,) * tp, machine.link)
            for machine, parts in zip(machines, cut, strict=True)
            for tp in parts
        ]
        found = spread_layers(model, stages, job)
        if found is None:
            continue
        if best is None or pipeline_s(model, found, between, job) < pipeline_s(
            model, best, between, job
        ):
            best = found
    return best


def _cuts(gpus: int, largest: int = 8) -> Iterator[tuple[int, ...]]:
    """Ways to write a number of GPUs as TP degrees 1, 2, 4, 8, largest first."""
    if gpus == 0:
        yield ()
        return
    for tp in (8, 4, 2, 1):
        if tp <= min(gpus, largest):
            for rest in _cuts(gpus - tp, tp):
                yield (tp, *rest)


def spread_layers(
    model: Transformer, stages: Sequence[Stage], job: Job
) -> tuple[Stage, ...] | None:
    """Layers over given TP groups with the fastest slowest stage that memory allows; None if none."""
    total = model.layers
    best = [0.0] + [math.inf] * total
    taken: list[list[int]] = []
    for number in range(len(stages)):
        times = _stage_times(model, stages, number, job)
        after, choice = [math.inf] * (total + 1), [0] * (total + 1)
        for layers in range(1, total + 1):
            for mine in range(1, min(layers, len(times) - 1) + 1):
                slowest = max(best[layers - mine], times[mine])
                if slowest < after[layers]:
                    after[layers], choice[layers] = slowest, mine
        best = after
        taken.append(choice)
    if math.isinf(best[total]):
        return None
    found: list[Stage] = []
    left = total
    for stage, choice in zip(reversed(stages), reversed(taken), strict=True):
        found.append(replace(stage, layers=choice[left]))
        left -= choice[left]
    return tuple(reversed(found))


def _stage_times(model: Transformer, stages: Sequence[Stage], number: int, job: Job) -> list[float]:
    """Seconds of a stage by its number of layers, as far as they fit into its memory."""
    matrices = (number == 0) + (number == len(stages) - 1)
    smallest = min(d.memory_bytes for d in stages[number].devices)
    times = []
    for layers in range(model.layers + 1):
        stage = replace(stages[number], layers=layers)
        if memory_bytes(model, stage, job, matrices) > USABLE_MEMORY * smallest:
            break
        times.append(stage_s(model, stage, job))
    return times
