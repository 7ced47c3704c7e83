"""A small cluster made of plain values, for tests of what the operator decides."""

from motley_operator.testing.world import (
    ImpossibleCluster,
    World,
    gpu_node,
    refuse_impossible,
)

__all__ = ["ImpossibleCluster", "World", "gpu_node", "refuse_impossible"]
