"""A pool whose prompts and answers shift: replicas change their role, and no pod starts or stops."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from motley_operator.changes.roles import role_changes
from motley_operator.decision import decide
from motley_operator.domain.actions import (
    Action,
    ApplyObject,
    ChangeRole,
    CreatePod,
    DeletePod,
)
from motley_operator.domain.names import COLUMN, UNIT
from motley_operator.testing import World, gpu_node, pool
from motley_operator.testing.operated import CATALOG, PREVIEW, Operated
from motley_planner.dispatch import parse_routing

KEY = "ServingPool/team-a/chat"
L40S = "NVIDIA-L40S"


def load(prompt: int, answer: int, rate: float) -> dict[str, Any]:
    return {
        "requestsPerSecond": str(rate),
        "classes": [{"name": "all", "promptTokens": prompt, "outputTokens": answer}],
    }


LONG_PROMPTS, LONG_ANSWERS = load(3000, 100, 5.0), load(1000, 600, 3.5)
SPEC: dict[str, Any] = {
    "model": {"id": "meta-llama/Llama-3.1-8B-Instruct"},
    "slo": {"ttft": {"p95": "3s"}, "tpot": {"p95": "100ms"}},
    "disaggregation": "Always",
}


def operated(engine: str = "vllm", **spec: Any) -> Operated:
    """Three nodes of one GPU, and a pool that fills them: two replicas prefill, one decodes."""
    made = Operated(nodes=0)
    made.world.add_node(*(gpu_node(f"l{i}", L40S, 1) for i in range(3)))
    made.world.add(pool(workload=LONG_PROMPTS, engine={"name": engine}, **SPEC, **spec))
    return made


def running(engine: str = "vllm", **spec: Any) -> Operated:
    made = operated(engine, **spec)
    made.run()
    assert phases(made.world) == {"prefill": 2, "decode": 1}
    return made


def described(world: World) -> dict[str, dict[str, Any]]:
    """What each engine pod says of itself, by UID."""
    return {pod.uid: json.loads(pod.annotations[UNIT]) for pod in world.engine_pods(KEY)}


def phases(world: World) -> Counter[str]:
    return Counter(unit["phase"] for unit in described(world).values())


def routed(world: World) -> dict[str, str]:
    """What each replica does in the routing that the gateway reads, by name."""
    document = world.owned["ConfigMap", "team-a", "chat-routing"]
    (stage,) = parse_routing(json.loads(document["data"]["routing.json"])).stages
    assert not stage.replicas
    found = dict.fromkeys((r.name for r in stage.prefill), "prefill")
    return found | dict.fromkeys((r.name for r in stage.decode), "decode")


def said(world: World) -> dict[str, str]:
    """What each pod says that it does, by name."""
    return {p.name: json.loads(p.annotations[UNIT])["phase"] for p in world.engine_pods(KEY)}


def moves_pods(actions: tuple[Action, ...]) -> list[Action]:
    return [a for a in actions if isinstance(a, CreatePod | DeletePod)]


def test_a_shift_of_the_mix_changes_a_role_and_touches_no_process() -> None:
    made = running()
    before, uids, specs = described(made.world), made.uids(KEY), dict(made.world.specs)
    made.edit(KEY, workload=LONG_ANSWERS)
    decision = made.cycle()
    told = [a for a in decision.actions if isinstance(a, ChangeRole)]
    assert len(told) == 1 and not moves_pods(decision.actions)
    # The pod is told before the gateway is.
    kinds = [type(a) for a in decision.actions if isinstance(a, ChangeRole | ApplyObject)]
    assert kinds[0] is ChangeRole and ApplyObject in kinds
    made.run()
    assert phases(made.world) == {"prefill": 1, "decode": 2}
    assert made.uids(KEY) == uids and made.world.specs == specs
    assert routed(made.world) == said(made.world)
    after = described(made.world)
    changed = [uid for uid in uids if before[uid] != after[uid]]
    assert changed == [told[0].uid]
    assert {**before[changed[0]], "phase": "decode"} == after[changed[0]]
    labels = {pod.uid: pod.labels[COLUMN] for pod in made.world.engine_pods(KEY)}
    decoding = {labels[uid] for uid in uids if after[uid]["phase"] == "decode"}
    assert len(decoding) == 1  # one column, whichever of them it was started for


def test_the_change_is_told_as_one_that_loads_no_weights() -> None:
    made = running()
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    last = made.status(KEY)["lastReplan"]
    assert (last["tier"], last["reason"]) == ("T1", "PhaseShifted")
    assert (last["started"], last["stopped"], last["kept"], last["flipped"]) == (0, 0, 3, 1)
    events = [e.message for e in made.world.events if e.reason == "Replanned"]
    assert "1 change role" in events[-1] and events[-1].startswith("T1")
    groups = {g["phase"]: g["count"] for g in made.status(KEY)["plan"]["groups"]}
    assert groups == {"prefill": 1, "decode": 2}


def test_back_again_and_again_nothing_is_ever_started() -> None:
    made = running()
    uids = made.uids(KEY)
    for workload in (LONG_ANSWERS, LONG_PROMPTS) * 2:
        made.edit(KEY, workload=workload)
        made.run()
        made.restart()
        made.run()
        assert made.uids(KEY) == uids and routed(made.world) == said(made.world)
    assert phases(made.world) == {"prefill": 2, "decode": 1}


def interrupted(made: Operated, number: int) -> None:
    """A cycle of which only the first actions are carried out; then another process."""
    decision = decide(made.world.facts(), CATALOG, made.settings, made.planner)
    made.world.apply(decision.actions[:number])
    made.restart()


@pytest.mark.parametrize("carried_out", [0, 1, 2, 3])
def test_whoever_is_interrupted_goes_on_from_what_pods_say(carried_out: int) -> None:
    made = running()
    uids = made.uids(KEY)
    made.edit(KEY, workload=LONG_ANSWERS)
    interrupted(made, carried_out)
    if carried_out == 1:  # between the two writes: the pod is told, the gateway not yet
        assert phases(made.world) == {"prefill": 1, "decode": 2}
        assert Counter(routed(made.world).values()) == {"prefill": 2, "decode": 1}
    made.run()
    assert phases(made.world) == {"prefill": 1, "decode": 2}
    assert made.uids(KEY) == uids and routed(made.world) == said(made.world)


def test_a_role_is_read_back_after_a_restore_without_a_status() -> None:
    made = running()
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    before, uids = said(made.world), made.uids(KEY)
    made.world.documents[KEY].pop("status")
    made.restart()
    made.run()
    assert said(made.world) == before and made.uids(KEY) == uids
    assert routed(made.world) == before


def test_a_replica_that_is_lost_comes_back_in_the_role_that_it_had() -> None:
    made = running()
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    there = said(made.world)
    flipped = next(p for p in made.world.engine_pods(KEY) if there[p.name] == "decode")
    del made.world.pods[flipped.namespace, flipped.name]
    made.run()
    assert phases(made.world) == {"prefill": 1, "decode": 2}
    assert routed(made.world) == said(made.world)


def test_an_engine_with_a_process_for_each_role_starts_it_anew() -> None:
    made = running("sglang")
    uids = made.uids(KEY)
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    assert phases(made.world) == {"prefill": 1, "decode": 2}
    assert made.uids(KEY) != uids
    assert made.status(KEY)["lastReplan"]["tier"] == "T2"


def test_pods_of_both_roles_run_the_same_process() -> None:
    """What a role flip rests on: but for names, places and the role, the pods are equal."""
    made = running()
    found: dict[str, Any] = {}
    for pod in made.world.engine_pods(KEY):
        spec = made.world.specs[pod.namespace, pod.name]
        found.setdefault(described(made.world)[pod.uid]["phase"], spec["containers"][0])
    assert found["prefill"] == found["decode"]


def test_a_pod_is_told_nothing_where_its_process_is_another() -> None:
    made = running()
    made.edit(KEY, workload=LONG_ANSWERS)
    decision = made.cycle()
    wanted = {
        (m["metadata"]["namespace"], m["metadata"]["name"]): m
        for m in decision.desired
        if m["kind"] == "Pod"
    }
    pods = list(running().world.engine_pods(KEY))
    assert len(role_changes(wanted, pods)) == 1
    for changed in ("operating_batch", "tensor_parallel", "model", "kv_scale"):
        others = []
        for pod in pods:
            unit = json.loads(pod.annotations[UNIT]) | {changed: 3}
            others.append(replace(pod, annotations={**pod.annotations, UNIT: json.dumps(unit)}))
        assert role_changes(wanted, others) == ()
    damaged = [replace(pod, annotations={**pod.annotations, UNIT: "]"}) for pod in pods]
    assert role_changes(wanted, damaged) == ()
    assert role_changes(wanted, [replace(pod, deleting=True) for pod in pods]) == ()


def test_in_preview_a_role_changes_once_that_is_approved() -> None:
    made = operated(replan=PREVIEW)
    made.run()
    made.approve(KEY, str(made.proposed(KEY)["hash"]))
    made.run()
    uids = made.uids(KEY)
    assert phases(made.world) == {"prefill": 2, "decode": 1}
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    assert phases(made.world) == {"prefill": 2, "decode": 1}
    proposed = made.proposed(KEY)
    assert (proposed["starts"], proposed["stops"], proposed["keeps"]) == (0, 0, 3)
    assert any(line.startswith("let decode 1 x") for line in proposed["changes"])
    made.approve(KEY, str(proposed["hash"]))
    made.run()
    assert phases(made.world) == {"prefill": 1, "decode": 2} and made.uids(KEY) == uids
    assert routed(made.world) == said(made.world)


def test_a_paused_pool_changes_no_role() -> None:
    made = running()
    made.world.documents[KEY]["metadata"]["annotations"] = {"motley.dev/paused": "true"}
    made.edit(KEY, workload=LONG_ANSWERS)
    made.run()
    assert phases(made.world) == {"prefill": 2, "decode": 1}
