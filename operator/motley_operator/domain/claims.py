"""Nodes that are asked for and not there yet, and the label that says which pods wait for which.

The planner calls the i-th node of a shape "+shape/i". The pods that are to share it carry the label
`motley.dev/claim: shape-i` from their making to their end, and no pin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLAIM: Final = "motley.dev/claim"
HOSTNAME: Final = "kubernetes.io/hostname"
PREFIX: Final = "+"  # no node of a cluster is called so


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A shape that gave no node in time; times in Unix seconds."""

    shape: str
    failures: int
    since: float
    until: float


def is_coming(node: str | None) -> bool:
    """Whether a node's name is that of one that is asked for."""
    return (node or "").startswith(PREFIX)


def shape_of(node: str) -> str:
    """The shape of "+shape/i"."""
    return node.removeprefix(PREFIX).rpartition("/")[0]


def claim_of(node: str) -> str:
    """The label's value for "+shape/i"."""
    return node.removeprefix(PREFIX).replace("/", "-")


def node_of(claim: str) -> str:
    """The inverse of `claim_of`."""
    shape, _, number = claim.rpartition("-")
    return f"{PREFIX}{shape}/{number}"


def number_of(claim: str) -> int:
    """i of "shape-i"; -1 where somebody wrote something else."""
    number = claim.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
