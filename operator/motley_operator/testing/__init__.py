"""A small cluster made of plain values, for tests of what the operator decides."""

from motley_operator.testing.impossible import ImpossibleCluster, refuse_impossible
from motley_operator.testing.samples import (
    CALIBRATION,
    cascade,
    gpu_node,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_operator.testing.world import World

__all__ = [
    "CALIBRATION",
    "ImpossibleCluster",
    "World",
    "cascade",
    "gpu_node",
    "job",
    "plan_of",
    "pool",
    "refuse_impossible",
    "replica",
    "slice_of",
]
