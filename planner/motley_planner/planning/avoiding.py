"""What failed lately and is not to be started again for now; what of it runs goes on."""

from __future__ import annotations

from collections.abc import Iterable

from motley_planner.candidates import Candidate
from motley_planner.domain.fragments import size_text
from motley_planner.domain.snapshot import Avoided


def is_avoided(candidate: Candidate, avoided: Iterable[Avoided]) -> bool:
    """Whether nothing more of the candidate may be started: its nodes or its configuration failed."""
    classes = [node_class for node_class, _, _ in candidate.parts]
    if any(candidate.key in node_class.avoided_by for node_class in classes):
        return True
    size = size_text(candidate.tensor_parallel, candidate.fragments, candidate.pipeline)
    what = (candidate.key, candidate.stage, candidate.gpu, size)
    return any(one.covers(what, classes) for one in avoided)
