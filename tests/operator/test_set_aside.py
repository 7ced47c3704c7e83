"""A resource on which Motley itself fails is set aside: it keeps what it runs, and others are planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from motley_operator.testing.operated import Operated, load
from motley_operator.testing.samples import pool

PLACES = (
    "motley_planner.planning.assemble.stage_slos",
    "motley_planner.planning.assemble.stage_candidates",
    "motley_operator.translate.asked.semantic_findings",
    "motley_operator.translate.asked.pool_demand",
    "motley_operator.translate.asked.read",
)


@contextmanager
def failing(place: str, name: str) -> Iterator[None]:
    """A fault in the code at `place`, met by the pool of that name alone."""
    module, _, function = place.rpartition(".")
    real = getattr(__import__(module, fromlist=["_"]), function)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if name in repr((args, kwargs)):
            raise ZeroDivisionError("float division by zero")
        return real(*args, **kwargs)

    with mock.patch(place, broken):
        yield


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_one_resource_meets_leaves_the_others_planned(place: str) -> None:
    operated = Operated(nodes=4)
    struck = operated.world.add(pool("struck", workload=load(2)))
    other = operated.world.add(pool("other", workload=load(2)))
    operated.run()
    running, others = operated.uids(struck), operated.uids(other)
    assert running and others
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
