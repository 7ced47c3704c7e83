"""One replica that is cut into fragments, evaluated as `operating` evaluates a whole one.

`pipeline_points` compares all pipelines at once, with nobody waiting and every class's memory
taken to be the longest one's. What is left of them comes here: how busy each may be, and whether
one that shares its memory among its classes serves more.

A sequence holds KV of every layer, so each fragment has a row of memory of its own. But layers are
alike: a class's bytes on a fragment over another class's are the same on all fragments, and one
fragment, the tightest for any class, is the tightest for every mix. Its row implies the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from motley_planner.candidates.loads import ClassLoad, class_loads
from motley_planner.candidates.operating import BATCHES, LEAST_GAIN, Evaluator
from motley_planner.candidates.pipeline_grid import Grid, Problem
from motley_planner.candidates.pipeline_points import Load
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.shared_memory import best_mix, point_at_batch, shared_point
from motley_planner.costs.pipeline import Pipeline
from motley_planner.domain.fragments import ReplicaFragment

Cut = tuple[tuple[int, int], ...]  # kind in the grid and layers, of each fragment


def fragments_of(grid: Grid, cut: Cut) -> tuple[ReplicaFragment, ...]:
    """The fragments as a plan names them."""
    wholes = [(grid.parts[kind].whole, layers) for kind, layers in cut]
    return tuple(ReplicaFragment(w.gpu.name, w.tensor_parallel, layers) for w, layers in wholes)


def cut_evaluator(grid: Grid, cut: Cut) -> tuple[Evaluator, tuple[ClassLoad, ...]]:
    """The evaluator of a pipeline and the classes of which one request fits into its memory."""
    problem: Problem = grid.problem
    parts = tuple(grid.parts[kind] for kind, _ in cut)
    pipeline = Pipeline(parts, tuple(layers for _, layers in cut), problem.fabric)
    whole = parts[0].whole
    made = Evaluator(whole, problem.targets, problem.busy, pipeline=pipeline)
    loads = class_loads(whole, grid.classes, pipeline)
    return made, tuple(load for load in loads if load.most_sequences >= 1.0)


def waiting_points(
    grid: Grid, cut: Cut, admitted: Sequence[Sequence[str]]
) -> Iterator[OperatingPoint]:
    """The point for each set of admitted classes; each batch names one."""
    evaluator, loads = cut_evaluator(grid, cut)
    taken: set[int] = set()
    for names in admitted:
        chosen = [load for load in loads if load.name in names]
        batch = evaluator.largest_batch(chosen) if len(chosen) == len(names) else 0
        while batch in taken:
            batch -= 1
        if batch >= 1 and evaluator.holds(chosen, batch):
            taken.add(batch)
            yield evaluator.point(chosen, batch)


def sharing_point(
    grid: Grid, kinds: Sequence[int], best: float
) -> tuple[Cut, OperatingPoint] | None:
    """The cut and point of a pipeline that serve most of the asked mix out of shared memory.

    None where that is not a twentieth more than `best`. Layers are balanced for the mean request.
    """
    combos = np.array(kinds, dtype=np.int64)[:, None]
    every = tuple(range(len(grid.classes)))
    layers = Load(grid, combos, np.array(BATCHES, dtype=np.float64), every, mixed=True)
    split = layers.balanced_layers()[:, 0, :]
    found: tuple[float, int, Cut] | None = None
    for cut in dict.fromkeys(tuple(column) for column in split.T.tolist() if all(column)):
        made: Cut = tuple(zip(kinds, cut, strict=True))
        evaluator, loads = cut_evaluator(grid, made)
        if len(loads) < len(grid.classes):
            continue
        batch, rate = best_mix(evaluator, loads)
        if rate * evaluator.busy > LEAST_GAIN * best and (found is None or rate > found[0]):
            found = rate, batch, made
    if found is None:
        return None
    evaluator, loads = cut_evaluator(grid, found[2])
    point = shared_point(evaluator, loads, found[1])
    mix = {load.name: load.share for load in loads}
    if point is None or point.mix_per_second(mix) <= LEAST_GAIN * best:
        return None
    return found[2], point


def point_at(grid: Grid, cut: Cut, batch: int) -> OperatingPoint | None:
    """As many classes as still hold at the batch and layers that a replica was started with."""
    evaluator, loads = cut_evaluator(grid, cut)
    return point_at_batch(evaluator, loads, batch) if loads else None
