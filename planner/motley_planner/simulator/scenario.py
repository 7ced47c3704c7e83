"""What is simulated: replicas with their engines, routes through stages, changes of plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motley_planner.dispatch import RoutingTable
from motley_planner.domain.demand import Branching
from motley_planner.simulator.arrivals import Arrivals
from motley_planner.simulator.outcomes import Outcomes
from motley_planner.simulator.steps import StepTimes


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One replica: `mode` is both, prefill or decode; bytes/s leave it over its NIC."""

    name: str
    times: StepTimes
    max_batch: int
    mode: str = "both"
    price_usd_per_hour: float = 0.0
    kv_bytes_per_token: float = 0.0  # that leave a prefill replica; kv_scale included
    nic_bytes_per_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Route:
    """A way through one model: dispatch stages in order, and the share of requests that take it.

    A pool's is ("main",); prefill and decode apart are ("main/prefill", "main/decode").
    """

    hops: tuple[str, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A plan in force: the routing table that a gateway would run, and the replicas behind it.

    The table's stages are hops; `routes` has, for each stage of the cascade (a pool has one), the
    ways through it.
    """

    table: RoutingTable
    servers: Mapping[tuple[str, str], ServerSpec]  # by (dispatch stage, replica name)
    routes: tuple[tuple[Route, ...], ...]
    branching: tuple[Branching, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A change of plan: new replicas load for `start_delay_s`, then the new routing is in force.

    Replicas that leave serve until then and drain afterwards; those in `lost` are gone at once with
    all they held, and their requests start again.
    """

    at_s: float
    deployment: Deployment
    start_delay_s: float = 0.0
    lost: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run: who serves, what arrives, what happens meanwhile."""

    deployment: Deployment
    arrivals: Arrivals
    outcomes: Outcomes | None = None  # None: a pool, or a cascade that never escalates
    changes: tuple[Change, ...] = ()
    end_s: float = float("inf")  # what is not answered by then counts as missed
    seed: int = 0
    deadline_s: float | None = (
        None  # requests are let in by it, as workflows of one call; None: all
    )
