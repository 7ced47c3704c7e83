"""What people could write, by the thousand: no manifest stops the operator or moves another's pods.

MOTLEY_FUZZ sets how many documents are drawn; `make test-faults` draws more than `make test`, and
10,000 take about ten minutes of a core.
"""

from __future__ import annotations

import os
from copy import copy, deepcopy
from functools import cache
from typing import Any

import pytest
from e2e import fuzz
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from motley_operator.settings import Settings
from motley_operator.testing import samples
from motley_operator.testing.operated import Operated
from motley_operator.testing.world import gpu_node

AT_ONCE = 5  # documents of one world
DOCUMENTS = int(os.environ.get("MOTLEY_FUZZ", "40"))
BYSTANDER = "ServingPool/team-a/bystander"
# As long as the Fleet allows: a plan that is cut short on a busy machine says little.
PATIENT = Settings(time_limit_s=10.0, first_time_limit_s=10.0)

drawn = settings(
    max_examples=max(1, DOCUMENTS // AT_ONCE),
    deadline=None,
    derandomize=True,
    # Of thousands, a failure is shown as it was drawn: making it smaller takes longer than finding it.
    phases=[p for p in Phase if p != Phase.shrink or DOCUMENTS <= 1000],
    suppress_health_check=list(HealthCheck),
)


@cache
def served() -> Operated:
    """A world with a pool that is served; nobody changes it."""
    made = Operated(nodes=0)
    made.world.add_node(gpu_node("a", "NVIDIA-L4"), gpu_node("b", "NVIDIA-H100-80GB-HBM3"))
    made.world.config_maps[("team-a", "table")] = {"table.csv": samples.CALIBRATION}
    made.world.add(samples.pool("bystander"))
    made.run()
    assert made.uids(BYSTANDER)
    return made


def operated() -> Operated:
    """A copy of the world with the pool, and of the operator that planned it."""
    made = Operated(nodes=0)
    made.world, made.planner = deepcopy(served().world), copy(served().planner)
    made.settings = PATIENT
    return made


batches = st.tuples(*(fuzz.manifests(f"fuzzed-{number}") for number in range(AT_ONCE)))


@pytest.mark.timeout(600 + DOCUMENTS)
@drawn
@given(batches, st.one_of(st.none(), fuzz.fleets()))
def test_no_manifest_that_the_schema_admits_stops_the_operator(
    documents: tuple[dict[str, Any], ...], fleet: dict[str, Any] | None
) -> None:
    made = operated()
    before = made.uids(BYSTANDER)
    keys = [made.world.add(document) for document in documents]
    made.world.fleet = fleet
    for _ in range(3):
        made.cycle()
        made.world.settle()
        made.world.now += 5.0
    for key in keys:
        status = made.status(key)
        assert status["observedGeneration"] == 1
        assert {row["type"] for row in status["conditions"]} >= {"Ready", "Planned"}
    if fleet is None:
        assert made.uids(BYSTANDER) == before


@pytest.mark.timeout(600 + DOCUMENTS)
@settings(drawn, max_examples=max(1, drawn.max_examples // 2))
@given(st.sampled_from(sorted(fuzz.BASES)), st.data())
def test_no_status_written_by_hand_stops_the_operator_or_moves_a_pod(
    kind: str, data: st.DataObject
) -> None:
    made = operated()
    key = made.world.add(fuzz.BASES[kind]("victim"))
    made.run()
    before = made.uids(BYSTANDER), made.uids(key)
    force = made.planner._force
    ended = force is not None and force.plan.status == "optimal"
    made.world.documents[key]["status"] = data.draw(fuzz.statuses(kind))
    if data.draw(st.booleans()):
        made.restart()
    made.run()
    assert made.uids(BYSTANDER) == before[0]
    # What a job has got to is known from its status alone; a plan that was cut short may be improved.
    if kind != "RLJob" and ended:
        assert made.uids(key) == before[1]
    assert made.status(key)["observedGeneration"] == 1


def test_drawn_documents_are_as_many_as_promised() -> None:
    assert drawn.max_examples * AT_ONCE == pytest.approx(DOCUMENTS, abs=AT_ONCE)
