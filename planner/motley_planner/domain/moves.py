"""What a plan starts, stops and gives another role, each at what it costs once.

A cost is what the decision was charged for the move: GPU time in which a new replica loads weights and
serves nothing, or whose work a stop throws away, at the fleet's mean price of a GPU hour. Predicted.
A change of role loads nothing and loses nothing: the little that a decision is charged for it keeps out noise.
"""

from __future__ import annotations

from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.plan import Move, PlannedReplica
from motley_planner.domain.snapshot import Snapshot

LEAST_USD_PER_GPU_HOUR = 0.5  # owned nodes cost nothing, moving them still does


def usd_per_gpu_hour(snapshot: Snapshot) -> float:
    """What an hour of a GPU is worth where it is lost to a move."""
    prices = [node.node_class.price_usd_per_gpu_hour for node in snapshot.nodes] or [0.0]
    return max(sum(prices) / len(prices), LEAST_USD_PER_GPU_HOUR)


def start_of(snapshot: Snapshot, key: str, replica: PlannedReplica, reason: str) -> Move:
    """The start of a planned replica."""
    hours = snapshot.move_price.reload_hours
    cost_usd = hours * replica.gpus * usd_per_gpu_hour(snapshot)
    return Move(key, replica.name, "start", replica.nodes, reason, cost_usd)


def stop_of(snapshot: Snapshot, unit: RunningUnit, reason: str) -> Move:
    """The stop of a running replica."""
    hours = snapshot.move_price.lost_work_hours
    cost_usd = hours * unit.gpus * usd_per_gpu_hour(snapshot)
    return Move(unit.key, unit.id.rpartition("/")[2], "stop", unit.nodes, reason, cost_usd)


def flip_of(key: str, replica: PlannedReplica, reason: str) -> Move:
    """A running replica that goes on in its other role."""
    return Move(key, replica.name, "flip", replica.nodes, reason)
