"""A cascade whose target no fixed split of it can meet: planned in tiers, and kept when simulated."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from motley_operator.cli.documents import Sources, facts_of, read_files
from motley_operator.decision import decide
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing.world import World
from motley_operator.translate.translation import translate
from motley_planner.catalog import load_catalog
from motley_planner.planning import plan
from motley_planner.simulator import (
    Scenario,
    Terms,
    deployment_of,
    drawn,
    kinds_of,
    outcomes_of,
    report_of,
    simulate,
    stages_of,
)

ROOT = Path(__file__).parents[2]
KEY = "ModelCascade/team-a/support"
CATALOG = load_catalog()
SETTINGS = Settings(time_limit_s=30.0, first_time_limit_s=30.0)


def world_of(target: str) -> World:
    """The demo's nodes with its cascade alone, at 12 requests/s and this target."""
    objects = read_files([str(ROOT / "examples")])
    facts = facts_of(Sources(objects, read_files([str(ROOT / "e2e/cluster/nodes/demo.yaml")])))
    world = World(nodes={node.name: node for node in facts.nodes})
    world.fleet = copy.deepcopy(facts.fleet)
    assert world.fleet is not None
    world.fleet["metadata"].setdefault("uid", "fleet")
    world.priority_classes = dict(facts.priority_classes)
    world.config_maps = dict(facts.config_maps)
    (cascade,) = (r for r in facts.resources if r.key == KEY)
    document = copy.deepcopy(cascade.document)
    document["spec"]["slo"] = {"e2e": {"p95": target}}
    document["spec"]["workload"]["requestsPerSecond"] = "12"
    world.add(document)
    return world


def settle(world: World, planner: RememberingPlanner) -> int:
    """Cycles until one does nothing; how many pods were created or deleted on the way."""
    writes = 0
    for _ in range(15):
        world.now += 3.0
        made = decide(world.facts(), CATALOG, SETTINGS, planner)
        actions = (*made.actions, *made.statuses)
        writes += sum(isinstance(action, CreatePod | DeletePod) for action in actions)
        world.apply(actions)
        world.settle()
        if not actions:
            return writes
    raise AssertionError("15 cycles and still not calm")


def test_a_target_that_only_tiers_can_meet_is_planned_run_and_kept_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, planner = world_of("3s"), RememberingPlanner(plan)
    assert settle(world, planner) > 2
    conditions = world.documents[KEY]["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions}["Planned"] == "True", conditions
    before = {p.uid for p in world.pods.values()}
    assert settle(world, planner) == 0
    assert settle(world, RememberingPlanner(plan)) == 0  # another operator
    assert {p.uid for p in world.pods.values()} == before
    facts = world.facts()
    translation = translate(facts, CATALOG, SETTINGS)
    monkeypatch.setattr("motley_planner.planning.assemble.wants_tiers", lambda *_: False)
    fresh = replace(translation.snapshot, running=())
    (part,) = plan(fresh, translation.catalog, use_worker=False).slices
    assert [r.reason for r in part.refusals] == ["LatencyUnreachable"] and not part.replicas


def test_what_the_routing_says_keeps_the_target_when_simulated() -> None:
    translation = translate(world_of("3s").facts(), CATALOG, SETTINGS)
    (part,) = plan(translation.snapshot, translation.catalog, use_worker=False).slices
    late = {p.what: p.value for p in part.promises}["late_share e2e p95"]
    assert late <= 0.05 + 1e-6
    for replica in part.replicas:  # a gateway borrows wherever there is capacity
        assert bool(replica.capacity) == bool(replica.rates)
    arrivals = drawn(kinds_of(part), 4000, seed=3)
    last = float(arrivals.time_s[-1])
    scenario = Scenario(
        deployment_of(part, translation.catalog),
        arrivals,
        outcomes_of(part),
        end_s=last + 60.0,
        seed=3,
    )
    terms = Terms(part.slo, 0.1 * last)
    report = report_of(simulate(scenario), part.key, stages_of(part), terms)
    assert not report.refused
    assert all(each.share is None or each.share >= each.wanted - 0.01 for each in report.attainment)


def test_a_target_that_a_split_can_meet_is_split_unless_tiers_are_asked_for() -> None:
    facts = world_of("12s").facts()
    for asked in (False, True):
        made = translate(facts, CATALOG, replace(SETTINGS, latency_tiers=asked))
        (part,) = plan(made.snapshot, made.catalog, use_worker=False).slices
        said = {p.what for p in part.promises}
        assert ("late_share e2e p95" in said) == asked
