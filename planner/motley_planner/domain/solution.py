"""What solving a fleet table gives: counts, rates, placement, and how good they are proved to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from motley_planner.domain.certificate import Certificate

BoundProof = Literal["proved by a certificate", "not proved by a certificate"]
PROVED: BoundProof = "proved by a certificate"
UNPROVED: BoundProof = "not proved by a certificate"
PROOF_TOLERANCE = 1e-6
SolveStatus = Literal["optimal", "feasible", "infeasible", "no_solution"]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the lexicographic objective; `gap` = |bound - value| / max(1e-9, |value|).

    `certified_bound` is what a certificate proves of the level by addition. `bound` may be closer: what
    branching proved has no certificate.
    """

    name: str
    value: float | None
    bound: float | None
    gap: float | None
    certified_bound: float | None = None

    @property
    def bound_proof(self) -> BoundProof | None:
        """Whether a certificate proves `bound`, to a relative 1e-6; None where there is none."""
        if self.bound is None:
            return None
        if self.certified_bound is None:
            return UNPROVED
        sign = -1.0 if self.name == "price" else 1.0
        farther = sign * (self.certified_bound - self.bound)
        return PROVED if farther <= PROOF_TOLERANCE * max(1.0, abs(self.bound)) else UNPROVED


@dataclass(frozen=True, slots=True)
class ReplicaCount:
    """`count` equal replicas of a column."""

    column: str
    count: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests/s of a class given to all replicas of a column together."""

    column: str
    request_class: str
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class PolicyShare:
    """Share (0..1) of a cascade's served requests that follow a policy."""

    cascade: str
    id: str
    share: float


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests/s whose KV cache moves from a prefill zone to a decode zone."""

    request_class: str
    source: str
    target: str
    kv_scale: float
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class PlacedReplica:
    """A replica on concrete nodes, one for each fragment; `kept` is the running replica's id."""

    column: str
    nodes: tuple[str, ...]
    kept: str | None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What could not be had, how much of it (requests/s or its share), and what binds."""

    what: str
    how_much: float
    binding: str


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of one solve; docs/reference/solve.md describes the same fields as JSON."""

    status: SolveStatus
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    levels: tuple[Level, ...] = ()
    solve_seconds: float = 0.0
    price_usd_per_hour: float | None = None
    replicas: tuple[ReplicaCount, ...] = ()
    rates: tuple[Rate, ...] = ()
    policies: tuple[PolicyShare, ...] = ()
    flows: tuple[Flow, ...] = ()
    unserved: Mapping[str, float] | None = None
    placement: tuple[PlacedReplica, ...] = ()
    started: int = 0
    stopped: int = 0
    started_gpus: int = 0
    stopped_gpus: int = 0
    shortfalls: tuple[Shortfall, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    no_certificates: str = ""  # why there are none
    cut_short: bool = False  # the time ran out before the search ended or its gap was closed
    saving: frozenset[str] = frozenset()  # resources of which replicas stop for money alone
    more_to_save: bool = False  # other moves for money wait, so that not too much moves at once
