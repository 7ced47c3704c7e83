"""Which candidates rest on what was learned, and the band of what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from motley_planner.candidates.candidate import Candidate
from motley_planner.domain.measurements import Learned, LearnedKey

LEARNED_BAND = 0.10  # assumed: other loads than the one that was measured


def key_of(candidate: Candidate) -> LearnedKey:
    """What a learned factor for this candidate is kept under."""
    size = candidate.gpu, candidate.tensor_parallel
    return LearnedKey(candidate.model, *size, candidate.precision, candidate.engine)


def learned_of(candidate: Candidate, learned: Mapping[LearnedKey, Learned]) -> Learned | None:
    """The factor in the candidate's step times; None for what spans nodes, and for trainers."""
    alone = not candidate.pipeline and candidate.fragments == 1 and candidate.role != "trainer"
    return learned.get(key_of(candidate)) if alone else None


def labelled(candidate: Candidate, learned: Mapping[LearnedKey, Learned]) -> Candidate:
    """The candidate, called `learned` where a factor is in it and no profile goes before that."""
    if not learned or candidate.provenance != "modeled" or learned_of(candidate, learned) is None:
        return candidate
    return replace(candidate, provenance="learned")


def tpot_band(found: Learned) -> tuple[float, float]:
    """Shares of a promised TPOT between which it is expected.

    From what was measured over what is in force, `LEARNED_BAND` at least.
    """
    low = min(1.0 - LEARNED_BAND, found.low / found.value)
    return low, max(1.0 + LEARNED_BAND, found.high / found.value)
