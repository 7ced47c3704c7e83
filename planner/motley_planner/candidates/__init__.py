"""Every configuration that could run at all, and why others could not."""

from motley_planner.candidates.candidate import Candidate
from motley_planner.candidates.jobs import rollout_candidates, trainer_candidates
from motley_planner.candidates.phases import phase_candidates, same_process
from motley_planner.candidates.running import candidate_for_pieces, candidate_for_unit
from motley_planner.candidates.serving import forget_listings, stage_candidates

__all__ = [
    "Candidate",
    "candidate_for_pieces",
    "candidate_for_unit",
    "forget_listings",
    "phase_candidates",
    "rollout_candidates",
    "same_process",
    "stage_candidates",
    "trainer_candidates",
]
