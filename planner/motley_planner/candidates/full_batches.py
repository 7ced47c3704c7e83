"""The operating points of one replica at which a full batch of any admitted class fits into memory."""

from __future__ import annotations

from collections.abc import Sequence

from motley_planner.candidates.loads import ClassLoad
from motley_planner.candidates.operating import LEAST_GAIN, Evaluator
from motley_planner.candidates.point import OperatingPoint


def operating_points(evaluator: Evaluator, loads: Sequence[ClassLoad]) -> list[OperatingPoint]:
    """The useful points of one replica: the largest batch for all classes, and for fewer.

    Fewer: every prefix by prefill work, and each class alone, kept only where a class gains at
    least a twentieth over every wider point. Batches are distinct, so that a batch names its point.
    """
    points: list[OperatingPoint] = []
    for admitted in _class_sets(loads):
        batch = evaluator.largest_batch(admitted)
        taken = {point.batch for point in points}
        while batch in taken:
            batch -= 1
        if batch < 1:
            continue
        point = evaluator.point(admitted, batch)
        if _is_worth(point, points):
            points.append(point)
    return points


def _is_worth(point: OperatingPoint, others: Sequence[OperatingPoint]) -> bool:
    return any(
        all(rate > LEAST_GAIN * other.capacity.get(name, 0.0) for other in others)
        for name, rate in point.capacity.items()
    )


def _class_sets(loads: Sequence[ClassLoad]) -> list[tuple[ClassLoad, ...]]:
    sets = [tuple(loads[:size]) for size in range(len(loads), 0, -1)]
    sets += [tuple(loads[index : index + 1]) for index in range(1, len(loads))]
    return list(dict.fromkeys(sets))
