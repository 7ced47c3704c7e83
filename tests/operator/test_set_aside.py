"""A resource on which Motley itself fails is set aside: it keeps what it runs, and others are planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.translation import Translation
from motley_operator.testing.operated import Operated, load
from motley_operator.testing.samples import pool
from motley_planner.domain.plan import Plan

PLACES = (  # where a plan is made
    "motley_planner.planning.assemble.stage_slos",
    "motley_planner.planning.assemble.stage_candidates",
    "motley_operator.translate.asked.semantic_findings",
    "motley_operator.translate.asked.pool_demand",
    "motley_operator.translate.asked.read",
)
CARRYING_OUT = (  # where it is carried out
    "motley_operator.succession._One",
    "motley_operator.manifests.build.engine_pod",
    "motley_operator.manifests.build.routing_config_map",
    "motley_operator.changes.judging._broken_gangs",
    "motley_operator.status.reporting.plan_status",
)


@contextmanager
def failing(place: str, name: str) -> Iterator[None]:
    """A fault in the code at `place`, met by the pool of that name alone."""
    module, _, function = place.rpartition(".")
    real = getattr(__import__(module, fromlist=["_"]), function)

    def broken(*args: Any, **kwargs: Any) -> Any:
        of_all = (Plan, Translation, ClusterFacts)
        if name in repr([a for a in (*args, *kwargs.values()) if not isinstance(a, of_all)]):
            raise ZeroDivisionError("float division by zero")
        return real(*args, **kwargs)

    with mock.patch(place, broken):
        yield


def served() -> tuple[Operated, str, str]:
    """Two pools that are served: the one that a fault will strike, and the other."""
    operated = Operated(nodes=4)
    struck = operated.world.add(pool("struck", workload=load(2)))
    other = operated.world.add(pool("other", workload=load(2)))
    operated.run()
    assert operated.uids(struck) and operated.uids(other)
    return operated, struck, other


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_one_resource_meets_leaves_the_others_planned(place: str) -> None:
    operated, struck, other = served()
    running, others = operated.uids(struck), operated.uids(other)
    operated.edit(struck, workload=load(3))
    operated.edit(other, workload=load(40))
    with failing(place, "struck"):
        operated.run()
        assert operated.uids(struck) == running
        assert len(operated.uids(other)) > len(others)
        kind = "Accepted" if ".translate." in place else "Planned"
        assert operated.condition(struck, kind) == ("False", "InternalError")
        assert "ZeroDivisionError: float division by zero" in operated.message(struck, kind)
        assert operated.condition(other, "Planned") == ("True", "Planned")
    operated.edit(struck, workload=load(4))
    operated.run()
    assert operated.condition(struck, "Planned") == ("True", "Planned")


@pytest.mark.parametrize("place", CARRYING_OUT)
def test_a_fault_while_a_plan_is_carried_out_leaves_the_others_served(place: str) -> None:
    operated, struck, other = served()
    running, others = operated.uids(struck), operated.uids(other)
    with failing(place, "struck"):
        operated.edit(struck, workload=load(8))
        operated.edit(other, workload=load(40))
        operated.run()
        assert operated.uids(struck) == running
        assert len(operated.uids(other)) > len(others)
        assert operated.condition(struck, "Accepted") == ("False", "InternalError")
        assert operated.condition(other, "Planned") == ("True", "Planned")
        solves = operated.planner.solves
        operated.run()
        assert operated.planner.solves == solves  # what others run is not planned anew for it
    operated.run()
    assert operated.condition(struck, "Planned") == ("True", "Planned")


def test_a_resource_that_cannot_even_be_told_leaves_the_others_told() -> None:
    operated = Operated(nodes=4)
    struck = operated.world.add(pool("struck", workload=load(2)))
    other = operated.world.add(pool("other", workload=load(2)))
    with failing("motley_operator.status.reporting._extras", "struck"):
        operated.run()
    assert "status" not in operated.world.documents[struck]
    assert operated.condition(other, "Planned") == ("True", "Planned")
    assert operated.uids(other)
