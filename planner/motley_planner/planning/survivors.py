"""Of what runs: what may be stopped, what a plan stops, and the table that holds the rest."""

from __future__ import annotations

from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable, RunningReplica
from motley_planner.planning.assembly import Assembly

STEADY_STOPS, STOPS = 0.05, 0.25  # share of the survivors that one re-plan stops for service ...
LEAST_STOPS = 2  # ... or so many


def survivors(table: FleetTable) -> list[RunningReplica]:
    """Replicas that run and are not lost."""
    assert table.previous is not None
    return [r for r in table.previous.replicas if not set(r.nodes) & table.lost_nodes]


def edited_units(table: FleetTable, assembly: Assembly, snapshot: Snapshot) -> frozenset[str]:
    """Ids of the survivors of what somebody edited."""
    keys = {r.id: assembly.candidates[r.column].key for r in survivors(table)}
    return frozenset(name for name, key in keys.items() if key in snapshot.edited)


def every_key(snapshot: Snapshot) -> frozenset[str]:
    return frozenset(demand.key for demand in snapshot.demands)


def holding_but(table: FleetTable, assembly: Assembly, released: frozenset[str]) -> FleetTable:
    """The table in which what runs goes on where it runs, but for the released resources."""
    assert table.previous is not None
    held = frozenset(
        replica.id
        for replica in table.previous.replicas
        if assembly.candidates[replica.column].key not in released
    )
    return replace(table, held_replicas=held)


def stopped_keys(solution: Solution, table: FleetTable, assembly: Assembly) -> frozenset[str]:
    """Resources of which the solution stops a replica."""
    assert table.previous is not None
    kept = {placed.kept for placed in solution.placement}
    stopped = (replica for replica in table.previous.replicas if replica.id not in kept)
    return frozenset(assembly.candidates[replica.column].key for replica in stopped)


def stops(solution: Solution, table: FleetTable, assembly: Assembly, snapshot: Snapshot) -> int:
    """Survivors that a solution stops, but for those of what was edited."""
    kept = {placed.kept for placed in solution.placement}
    free = kept | edited_units(table, assembly, snapshot)
    return sum(replica.id not in free for replica in survivors(table))


def most_stopped(table: FleetTable, assembly: Assembly, snapshot: Snapshot) -> int:
    """Survivors that may be stopped for service: few of them, besides those of what was edited."""
    share = STEADY_STOPS if snapshot.steady else STOPS
    few = max(LEAST_STOPS, int(share * len(survivors(table))))
    return len(edited_units(table, assembly, snapshot)) + few


def most_saved(table: FleetTable) -> int:
    """Survivors that may be stopped for money within one cooldown."""
    return max(LEAST_STOPS, int(STOPS * len(survivors(table))))
