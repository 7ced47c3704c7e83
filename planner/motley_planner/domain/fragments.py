"""The parts of a replica that is cut into groups of layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaFragment:
    """One group of layers on `tensor_parallel` GPUs of one node, in the order of the layers."""

    gpu: str  # catalog id
    tensor_parallel: int
    layers: int
