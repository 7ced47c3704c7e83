"""A proposal that was cut short is sought again while it is fresh, and then left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_operator.domain.patience import SHOWN_S, TRIES, is_better_proposal
from motley_operator.remembering import RememberingPlanner
from motley_operator.testing import replica, slice_of
from motley_operator.testing.operated import PREVIEW, load
from motley_operator.testing.starved import Solver, StarvedFleet
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan, Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level
from motley_planner.errors import CalledOff


class Hasty(Solver):
    """The real planner; while it is `hasty` all is cut short, and what it proposes for many times the load.

    Less time would do the same on most machines, and nothing at all on a fast one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hasty: str | None = None
        self.times = 20.0
        self.proposed = 0

    def __call__(self, snapshot: Snapshot, catalog: Catalog) -> Plan:
        key = self.hasty
        if key is None:
            return super().__call__(snapshot, catalog)
        if key in snapshot.frozen:
            return cut_short(super().__call__(snapshot, catalog))
        self.proposed += 1
        asked = next(s for s in snapshot.services if s.key == key)
        more = replace(asked, requests_per_second=self.times * asked.requests_per_second)
        services = tuple(more if s.key == key else s for s in snapshot.services)
        made = super().__call__(replace(snapshot, services=services), catalog)
        rate = asked.requests_per_second
        slices = tuple(
            replace(part, requests_per_second=rate, served_requests_per_second=rate)
            if part.key == key
            else part
            for part in made.slices
        )
        return cut_short(replace(made, slices=slices))


def cut_short(plan: Plan) -> Plan:
    """The plan, with nothing proved of its price."""
    levels = (Level("price", 1.0, None, None),)
    return replace(plan, levels=levels, status="feasible", cut_short=True)


def dear_proposal(always: bool = False) -> tuple[StarvedFleet, str, str]:
    """A fleet, its pool in Preview, and the hash of a proposal that costs several times too much."""
    fleet = StarvedFleet(pools=2)
    fleet.solver = hasty = Hasty()
    fleet.planner = RememberingPlanner(hasty)
    for key in fleet.keys:
        fleet.edit(key, workload=load(100))
    fleet.run()
    key = fleet.keys[0]
    fleet.edit(key, replan=PREVIEW)
    fleet.run()
    hasty.hasty = key
    fleet.edit(key, workload=load(6), replan=PREVIEW)
    fleet.cycle()
    if not always:
        hasty.hasty = None
    assert fleet.planner.held.proposals[key].cut_short
    return fleet, key, str(fleet.proposed(key)["hash"])


def again(fleet: StarvedFleet) -> None:
    """A cycle once the next try is due."""
    assert fleet.planner.again_at is not None
    fleet.world.now = fleet.planner.again_at
    fleet.cycle()
    assert fleet.planner.why == "CutShort"


def test_a_proposal_that_was_cut_short_becomes_a_cheaper_one_within_half_a_minute() -> None:
    fleet, key, first = dear_proposal()
    shown_at, price = fleet.world.now, float(fleet.proposed(key)["dollarsPerHour"])
    before = {each: fleet.uids(each) for each in fleet.keys}
    while fleet.planner.again_at is not None:
        again(fleet)
    assert fleet.world.now <= shown_at + SHOWN_S
    better = fleet.proposed(key)
    assert float(better["dollarsPerHour"]) < 0.5 * price and better["hash"] != first
    assert {each: fleet.uids(each) for each in fleet.keys} == before  # nothing was approved
    fleet.at_rest()
    assert fleet.proposed(key) == better
    fleet.approve(key, first)
    fleet.step()
    assert fleet.condition(key, "Approved") == ("False", "StaleApproval")
    fleet.approve(key, str(better["hash"]))
    fleet.run()
    assert fleet.condition(key, "Approved") == ("True", "Approved")
    assert len(fleet.uids(key)) < len(before[key])
    assert fleet.uids(fleet.keys[1]) == before[fleet.keys[1]]


@pytest.mark.parametrize("times", [20.0, 30.0], ids=["the same", "worse"])
def test_a_search_that_finds_no_better_keeps_the_hash_and_is_made_a_few_times(times: float) -> None:
    fleet, key, first = dear_proposal(always=True)
    assert isinstance(fleet.solver, Hasty)
    fleet.solver.times, solves = times, fleet.planner.solves
    while fleet.planner.again_at is not None:
        again(fleet)
        # One each: no more time makes a plan of what stands, which may not be moved.
        assert fleet.planner.solves - solves <= TRIES
    assert fleet.planner.solves - solves == TRIES
    assert fleet.proposed(key)["hash"] == first
    fleet.at_rest()


def test_an_approval_calls_the_search_off_and_is_carried_out() -> None:
    fleet, key, first = dear_proposal()
    planned = fleet.proposed(key)["starts"] + fleet.proposed(key)["keeps"]

    def approves() -> None:
        fleet.solver.meanwhile = lambda: None
        fleet.approve(key, first)

    fleet.solver.meanwhile = approves
    with pytest.raises(CalledOff):
        again(fleet)
    assert fleet.proposed(key)["hash"] == first
    fleet.run()
    assert fleet.status(key)["plan"]["hash"] == fleet.status(key)["lastHandledApproval"] == first
    assert len(fleet.uids(key)) == planned


def test_a_proposal_that_somebody_may_have_read_for_a_while_is_left_alone() -> None:
    fleet, key, first = dear_proposal()
    again_at = fleet.planner.again_at
    assert again_at is not None
    # Something is in the way of every try while it is fresh: a node that may come back.
    name, nodes = fleet.nodes(fleet.keys[1])[0], fleet.world.nodes
    fleet.settings = replace(fleet.settings, node_loss_seconds=1000.0)
    nodes[name] = replace(nodes[name], ready=False, not_ready_since=fleet.world.now)
    while fleet.world.now < again_at + SHOWN_S:
        fleet.step()
    nodes[name] = replace(nodes[name], ready=True, not_ready_since=None)
    solves = fleet.planner.solves
    fleet.step()
    assert fleet.planner.solves == solves
    fleet.at_rest()
    assert fleet.proposed(key)["hash"] == first


def test_another_tenants_change_makes_no_old_proposal_fresh() -> None:
    fleet, key, first = dear_proposal(always=True)
    for _ in range(4 * TRIES):
        fleet.step()
    assert isinstance(fleet.solver, Hasty)
    proposed = fleet.solver.proposed
    fleet.edit(fleet.keys[1], workload=load(90))
    fleet.step()
    assert fleet.planner.why == "InputsChanged"
    assert fleet.solver.proposed == proposed + 1  # on top of the new plan
    assert fleet.proposed(key)["hash"] == first  # it says the same, and stays what it was
    fleet.run()
    assert fleet.solver.proposed == proposed + 1
    assert fleet.proposed(key)["hash"] == first


def offered(price: float, served: float = 1.0) -> Slice:
    part = slice_of("a", [replica()])
    return replace(part, served_requests_per_second=served, price_usd_per_hour=price)


@pytest.mark.parametrize(
    ("found", "better"),
    [
        (offered(9.4), True),
        (offered(9.6), False),  # not by as much as another hash is worth
        (offered(10.0), False),
        (offered(11.0), False),
        (offered(20.0, served=1.1), True),
        (offered(5.0, served=0.9), False),
    ],
)
def test_only_what_is_clearly_better_gets_another_hash(found: Slice, better: bool) -> None:
    assert is_better_proposal(found, offered(10.0), 0.05) is better
