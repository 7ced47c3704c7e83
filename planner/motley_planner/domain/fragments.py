"""The parts of a replica that is cut into groups of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaFragment:
    """One group of layers on `tensor_parallel` GPUs of one node, in the order of the layers."""

    gpu: str  # catalog id
    tensor_parallel: int
    layers: int


def size_text(tensor_parallel: int, fragments: int, pipeline: Sequence[ReplicaFragment]) -> str:
    """A replica's GPUs in short: tp4, tp4x2 over two nodes, or 4xH100:48+2xA10:20 for a pipeline."""
    if not pipeline:
        many = f"x{fragments}" if fragments > 1 else ""
        return f"tp{tensor_parallel}{many}"
    return "+".join(f"{f.tensor_parallel}x{f.gpu}:{f.layers}" for f in pipeline)
