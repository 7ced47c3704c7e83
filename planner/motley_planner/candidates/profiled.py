"""An evaluator with a user's measurements of its replica before the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_planner.candidates.loads import class_loads
from motley_planner.candidates.measured import Correction, Ratio
from motley_planner.candidates.operating import Evaluator
from motley_planner.domain.demand import WorkloadClass
from motley_planner.domain.measurements import ProfilePoint


def corrected(evaluator: Evaluator, points: Sequence[ProfilePoint]) -> Evaluator:
    """The evaluator with its TPOT and TTFT as measured, near measured loads.

    TTFT is compared after TPOT is corrected, as prompts wait for each other at the pace of steps.
    """
    tpot, ttft = [], []
    for point in points:
        modeled, _ = _alone(evaluator, point)
        tpot.append(Ratio(*_load(point), point.tpot_s / modeled))
    paced = replace(evaluator, correction=Correction(tuple(tpot)))
    for point in points:
        if point.ttft_s is not None:
            _, modeled = _alone(paced, point)
            ttft.append(Ratio(*_load(point), point.ttft_s / modeled))
    return replace(paced, correction=Correction(tuple(tpot), tuple(ttft)))


def _alone(evaluator: Evaluator, point: ProfilePoint) -> tuple[float, float]:
    """TPOT and TTFT that an evaluator gives a measured load by itself."""
    own = WorkloadClass("own", round(point.prompt_tokens), round(point.output_tokens))
    made = evaluator.point(class_loads(evaluator.replica, (own,)), max(1, round(point.batch)))
    return made.tpot_s["own"], made.ttft_s["own"]


def _load(point: ProfilePoint) -> tuple[float, float, float]:
    return point.batch, point.prompt_tokens, point.output_tokens
