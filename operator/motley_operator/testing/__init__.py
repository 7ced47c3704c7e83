"""A small cluster made of plain values, for tests of what the operator decides."""

from motley_operator.testing.samples import (
    CALIBRATION,
    cascade,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_operator.testing.world import ImpossibleCluster, World, gpu_node, refuse_impossible

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
