"""What people could write, by the thousand: no manifest stops the operator or moves another's pods.

MOTLEY_FUZZ sets how many different documents are drawn, MOTLEY_FUZZ_SEED which; `make test-faults`
draws more than `make test`, and 1,000 take about 50 s of a core.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy, deepcopy
from functools import cache
from typing import Any

import pytest
from e2e import fuzz
from hypothesis import strategies as st

from motley_operator.settings import Settings
from motley_operator.testing import samples
from motley_operator.testing.operated import Operated
from motley_operator.testing.samples import gpu_node

AT_ONCE = 5  # documents of one world
DOCUMENTS = int(os.environ.get("MOTLEY_FUZZ", "40"))
STATUSES = max(3, DOCUMENTS // 30)  # of each kind
SEED = int(os.environ.get("MOTLEY_FUZZ_SEED", "0"))
BYSTANDER = "ServingPool/team-a/bystander"
# As long as the Fleet allows: a plan that is cut short on a busy machine says little.
PATIENT = Settings(time_limit_s=10.0, first_time_limit_s=10.0)


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


@pytest.mark.timeout(600 + DOCUMENTS)
def test_no_manifest_that_the_schema_admits_stops_the_operator() -> None:
    batches = fuzz.batches(DOCUMENTS, AT_ONCE, SEED)
    fleets = fuzz.distinct(fuzz.fleets(), (len(batches) + 1) // 2, SEED)
    for number, documents in enumerate(batches):
        fleet = fleets[number // 2] if number % 2 else None
        try:
            answered(documents, fleet)
        except Exception as error:
            error.add_note(f"batch {number}, with the Fleet {fleet}: {documents}")
            for document in documents:  # which of them it is, if it is one alone
                answered([document], fleet)
            raise


def answered(documents: Sequence[dict[str, Any]], fleet: dict[str, Any] | None) -> None:
    """Every document is answered in its status, and moves nobody else."""
    made = operated()
    before = made.uids(BYSTANDER)
    keys = [made.world.add(deepcopy(document)) for document in documents]
    made.world.fleet = fleet
    for _ in range(3):
        made.cycle()
        made.world.settle()
        made.world.now += 5.0
    for key in keys:
        status = made.status(key)
        assert status["observedGeneration"] == 1
        assert {row["type"] for row in status["conditions"]} >= {"Ready", "Planned"}
        assert "InternalError" not in {row["reason"] for row in status["conditions"]}, status
    if fleet is None:
        assert made.uids(BYSTANDER) == before


@pytest.mark.timeout(600 + DOCUMENTS)
@pytest.mark.parametrize("kind", sorted(fuzz.BASES))
def test_no_status_written_by_hand_stops_the_operator_or_moves_a_pod(kind: str) -> None:
    for number, status in enumerate(fuzz.distinct(fuzz.statuses(kind), STATUSES, SEED)):
        try:
            put_right(kind, status, is_away=number % 2 == 0)
        except Exception as error:
            error.add_note(f"status {number}: {status}")
            raise


def put_right(kind: str, status: dict[str, Any], *, is_away: bool) -> None:
    """A status is written over, while the operator runs or is away; no pod moves for it."""
    made = operated()
    key = made.world.add(fuzz.BASES[kind]("victim"))
    made.run()
    before = made.uids(BYSTANDER), made.uids(key)
    force = made.planner._force
    ended = force is not None and force.plan.status == "optimal"
    made.world.documents[key]["status"] = status
    if is_away:
        made.restart()
    made.run()
    assert made.uids(BYSTANDER) == before[0]
    # What a job has got to is known from its status alone; a plan that was cut short may be improved.
    if kind != "RLJob" and ended:
        assert made.uids(key) == before[1]
    assert made.status(key)["observedGeneration"] == 1


def test_drawn_documents_are_as_many_as_promised_and_each_another() -> None:
    batches = fuzz.batches(60, AT_ONCE, SEED)
    assert [len(batch) for batch in batches] == [AT_ONCE] * 12
    drawn = [{**document, "metadata": {}} for batch in batches for document in batch]
    assert len({repr(document) for document in drawn}) == 60
    assert fuzz.batches(60, AT_ONCE, SEED) == batches
    assert fuzz.batches(60, AT_ONCE, SEED + 1) != batches
    with pytest.raises(ValueError, match="different values of 3"):
        fuzz.distinct(st.booleans(), 3)
