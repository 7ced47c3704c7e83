"""A measured rate that went with the status: what runs for it goes on until something is measured."""

from __future__ import annotations

import pytest
from tests.operator.test_demand_flow import Fleet

from motley_operator.main import plan_with
from motley_operator.remembering import RememberingPlanner
from motley_operator.testing import gpu_node

COOLDOWN_S = 600.0  # the Fleet's default


@pytest.fixture
def fleet() -> Fleet:
    """A pool that states 10/s, runs for 60/s, and lost its status while nothing was read."""
    fleet = Fleet()
    fleet.calm()
    fleet.see(60.0)
    fleet.calm()
    assert len(fleet.engines()) > 1
    fleet.world.documents[fleet.key].pop("status")
    fleet.world.reading = None
    fleet.world.now += 30
    return fleet


def restart(fleet: Fleet) -> None:
    fleet.planner = RememberingPlanner(plan_with)


@pytest.mark.parametrize("restarts", [True, False])
def test_no_pod_stops_before_anything_is_measured(fleet: Fleet, restarts: bool) -> None:
    before = fleet.engines()
    if restarts:
        restart(fleet)
    fleet.calm()
    fleet.world.add_node(gpu_node("h9"))  # a node that joins is when money is looked at
    fleet.calm()
    assert fleet.engines() == before
    assert fleet.condition() == ("Unknown", "WarmingUp")
    (said,) = [c for c in fleet.status()["conditions"] if c["type"] == "DemandMeasured"]
    assert "no money moves what runs" in said["message"] and "10m" in said["message"]
    fleet.see(60.0)
    fleet.calm()
    assert fleet.engines() == before
    assert 60.0 < float(fleet.status()["demand"]["requestsPerSecond"]) < 65.0


def test_where_nothing_is_ever_measured_the_stated_rate_holds_after_a_cooldown(
    fleet: Fleet,
) -> None:
    before = fleet.engines()
    restart(fleet)
    fleet.calm()
    fleet.world.now += COOLDOWN_S
    fleet.world.add_node(gpu_node("h9"))
    fleet.calm()
    assert fleet.engines() < before
    (said,) = [c for c in fleet.status()["conditions"] if c["type"] == "DemandMeasured"]
    assert "no money" not in said["message"]
