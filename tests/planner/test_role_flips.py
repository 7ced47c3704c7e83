"""Roles of replicas that run, when prompts and answers shift: whole plans of one pool."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import RunningUnit, ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.worth import running_units

CATALOG = load_catalog()
KEY = "ServingPool/team-a/chat"
L40S = NodeClass("L40S", "az-1", "on-demand", "", 1.86)
NODES = tuple(Node(f"n{i}", L40S, 1, 192_000, 2**41, 110, 1) for i in range(3))
MODEL = CATALOG.model("meta-llama/Llama-3.1-8B-Instruct")
LONG_PROMPTS, LONG_ANSWERS = (3000, 100, 5.0), (1000, 600, 3.5)
EDITED = frozenset({KEY})


def pool(mix: tuple[int, int, float], engine: str = "vllm") -> ServingDemand:
    """Prompt and answer tokens, and requests/s."""
    assert MODEL is not None
    prompt, answer, rate = mix
    return ServingDemand(
        key=KEY,
        tenant="team-a",
        stages=(StageDemand("main", MODEL, "bf16", engine),),
        classes=(WorkloadClass("all", prompt, answer),),
        requests_per_second=rate,
        slo=Slo(ttft_s={"p95": 3.0}, tpot_s={"p95": 0.1}),
        disaggregation="always",
    )


def solve(demand: ServingDemand, running: tuple[RunningUnit, ...] = (), **more: object) -> Plan:
    shot = Snapshot(NODES, (demand,), running=running, gateway_can_disaggregate=True)
    return plan(replace(shot, **more), CATALOG, use_worker=False)  # type: ignore[arg-type]


def phases(made: Plan) -> Counter[str]:
    return Counter(replica.phase for replica in made.slices[0].replicas)


def moves(made: Plan) -> Counter[tuple[str, str]]:
    return Counter((move.action, move.reason) for move in made.moves)


def units(made: Plan) -> tuple[RunningUnit, ...]:
    return running_units(made)


@pytest.mark.parametrize("steady", [False, True])
def test_a_shift_from_prompts_to_answers_changes_a_role_and_back(steady: bool) -> None:
    first = solve(pool(LONG_PROMPTS))
    assert phases(first) == {"prefill": 2, "decode": 1} and not first.slices[0].refusals
    then = solve(pool(LONG_ANSWERS), units(first), edited=EDITED, steady=steady)
    assert phases(then) == {"prefill": 1, "decode": 2} and not then.slices[0].refusals
    assert moves(then) == {("flip", "PhaseShifted"): 1} and then.kept == 3
    assert {r.kept for r in then.slices[0].replicas} == {unit.id for unit in units(first)}
    # The same again moves nothing, and the same names run under other roles.
    again = solve(pool(LONG_ANSWERS), units(then))
    assert not again.moves and again.slices[0].hash == then.slices[0].hash
    back = solve(pool(LONG_PROMPTS), units(then), edited=EDITED, steady=steady)
    assert moves(back) == {("flip", "PhaseShifted"): 1}
    assert phases(back) == phases(first)


def test_names_stay_those_that_replicas_run_under() -> None:
    first = solve(pool(LONG_PROMPTS))
    then = solve(pool(LONG_ANSWERS), units(first), edited=EDITED)
    assert {r.name for r in then.slices[0].replicas} == {r.name for r in first.slices[0].replicas}
    (flipped,) = (m.replica for m in then.moves)
    (now,) = (r for r in then.slices[0].replicas if r.name == flipped)
    (was,) = (r for r in first.slices[0].replicas if r.name == flipped)
    assert (was.phase, now.phase) == ("prefill", "decode")
    assert (was.operating_batch, was.nodes) == (now.operating_batch, now.nodes)
    assert was.column != now.column and then.slices[0].hash != first.slices[0].hash


def test_another_engine_has_a_process_for_each_role_and_starts_it_anew() -> None:
    first = solve(pool(LONG_PROMPTS, "sglang"))
    assert phases(first) == {"prefill": 2, "decode": 1}
    then = solve(pool(LONG_ANSWERS, "sglang"), units(first), edited=EDITED)
    actions = Counter(move.action for move in then.moves)
    assert actions["flip"] == 0 and actions["stop"] >= 1 and actions["start"] >= 1


@pytest.mark.parametrize("held", ["frozen", "still"])
def test_what_is_to_stay_as_it_is_changes_no_role(held: str) -> None:
    first = solve(pool(LONG_PROMPTS))
    more = {held: EDITED, "running": units(first), "gateway_can_disaggregate": True}
    shot = replace(Snapshot(NODES, (pool(LONG_ANSWERS),)), **more)  # type: ignore[arg-type]
    table, _ = assemble(shot, CATALOG)
    assert table.previous is not None
    assert len(table.previous.replicas) == 3
    assert not any(replica.flips_to for replica in table.previous.replicas)


def test_a_replica_may_change_only_into_what_its_process_is() -> None:
    """Same GPUs, zone, precision and batch: the columns differ in their phase and its network alone."""
    running = units(solve(pool(LONG_PROMPTS)))
    table, assembly = assemble(
        Snapshot(NODES, (pool(LONG_ANSWERS),), running=running, gateway_can_disaggregate=True),
        CATALOG,
    )
    assert table.previous is not None
    for replica in table.previous.replicas:
        (other,) = replica.flips_to
        old, new = assembly.candidates[replica.column], assembly.candidates[other]
        assert {old.phase, new.phase} == {"prefill", "decode"}
        same = ("key", "stage", "role", "model", "precision", "engine", "node_class")
        same += ("tensor_parallel", "fragments", "operating_batch", "kv_scale")
        assert all(getattr(old, name) == getattr(new, name) for name in same)


def test_a_role_that_is_no_longer_allowed_is_changed_before_anything_stops() -> None:
    """A batch of 128 answers has no memory beside long prompts; prompts come one by one."""
    big = replace(units(solve(pool(LONG_PROMPTS)))[0], phase="decode", operating_batch=128)
    others = units(solve(pool(LONG_PROMPTS)))[1:]
    made = solve(pool(LONG_PROMPTS), (big, *others))
    assert ("flip", "PhaseShifted") in moves(made)
    assert not [m for m in made.moves if m.action == "stop"]


def test_units_of_no_phase_have_no_other_role() -> None:
    colocated = replace(pool(LONG_PROMPTS), disaggregation="never")
    first = solve(colocated)
    assert phases(first).keys() == {"both"}
    table, _ = assemble(Snapshot(NODES, (colocated,), running=units(first)), CATALOG)
    assert table.previous is not None and table.previous.replicas
    assert not any(replica.flips_to for replica in table.previous.replicas)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_replicas_that_leave_out_long_prompts_are_read_back_as_such(engine: str) -> None:
    """Several operating points of one process: told apart by the column in the replica's name."""
    demand = replace(
        pool(LONG_PROMPTS, engine),
        classes=(WorkloadClass("rag", 8000, 100), WorkloadClass("all", 300, 100, 20)),
        slo=Slo(ttft_s={"p95": 1.6}, tpot_s={"p95": 0.1}),
        requests_per_second=20.0,
    )
    eight = (Node("n", L40S, 8, 192_000, 2**41, 110, 8),)
    first = solve(demand, nodes=eight)
    prefill = {r.column for r in first.slices[0].replicas if r.phase == "prefill"}
    assert len(prefill) == 2 and not first.slices[0].refusals
    again = solve(demand, units(first), nodes=eight)
    assert not again.moves and again.slices[0].hash == first.slices[0].hash
