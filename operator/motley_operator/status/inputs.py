"""What the pods of each stage were built from, so that a newer catalog rolls nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from motley_operator.api import FrozenInputs
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import IMAGE, INPUTS_HASH, STAGE
from motley_operator.status.observed import Observed

MOST_STAGES = 16


def frozen_inputs(observed: Observed, old: Sequence[FrozenInputs]) -> list[dict[str, Any]]:
    """The old rows, and one for each stage whose pods were built from another spec.

    The first pod by name speaks for its stage; a row stays while pods come and go.
    """
    rows = {row.stage: row for row in old}
    for pod in sorted(observed.engines, key=lambda each: each.name):
        stage, built = pod.labels.get(STAGE, ""), pod.annotations.get(INPUTS_HASH, "")
        image = pod.annotations.get(IMAGE, "")
        known = rows.get(stage)
        if pod.deleting or pod.terminal or not image:
            continue
        if known is None or all(_hash(p) != known.hash for p in _of(observed, stage)):
            rows[stage] = FrozenInputs(stage=stage, image=image, hash=built)
    return [
        rows[stage].model_dump(by_alias=True, mode="json") for stage in sorted(rows)[:MOST_STAGES]
    ]


def _of(observed: Observed, stage: str) -> list[PodFacts]:
    return [p for p in observed.engines if p.labels.get(STAGE) == stage]


def _hash(pod: PodFacts) -> str:
    return pod.annotations.get(INPUTS_HASH, "")
