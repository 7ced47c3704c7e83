"""Nodes asked for by ProvisioningRequests: all at once, once, and no longer when the answer is no."""

from __future__ import annotations

from typing import Any

import pytest

from motley_operator.domain.purchases import CLAIMS, CLASS, CONSUMES, REQUEST, TEMPLATE
from motley_operator.testing.asking import LABELS, Asking
from motley_operator.testing.operated import load
from motley_operator.testing.samples import gpu_node, pool

RATE = 24  # requests/s, a little less than one H100 serves
ATOMIC = "best-effort-atomic-scale-up.autoscaling.x-k8s.io"
Document = dict[str, Any]


def test_one_request_asks_for_every_node_and_the_pods_consume_it() -> None:
    asking = Asking()
    key = asking.world.add(pool(workload=load(5 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    waiting = [p for p in asking.world.engine_pods(key) if p.node is None]
    (name,) = asking.owned(REQUEST)
    request = asking.owned(REQUEST)[name]
    assert len(waiting) >= 3 and asking.asked_gpus() == len(waiting)
    assert set(request["metadata"]["annotations"][CLAIMS].split(",")) == {
        p.labels["motley.dev/claim"] for p in waiting
    }
    assert len({p.labels["motley.dev/claim"] for p in waiting}) >= 2
    assert request["spec"]["provisioningClassName"] == ATOMIC
    assert request["spec"]["parameters"] == {"ValidUntilSeconds": "450"}
    for template in asking.owned(TEMPLATE).values():
        spec = template["template"]["spec"]
        assert spec["nodeSelector"] == LABELS and "podAntiAffinity" in spec["affinity"]
        assert all({"args", "env", "command"}.isdisjoint(c) for c in spec["containers"])
    assert asking.fleet_says() == (
        "WaitingForNodes",
        f"pods wait for nodes: 2 of shape p5; request {name}: not accepted by an autoscaler yet",
    )


def test_pods_say_which_request_they_consume_when_they_are_made() -> None:
    from motley_operator.domain.actions import CreatePod

    asking = Asking()
    asking.world.add(pool(workload=load(3 * RATE), parallelism={"maxTensor": 1}))
    made = [a.manifest for a in asking.cycle().actions if isinstance(a, CreatePod)]
    waiting = [m for m in made if "motley.dev/claim" in m["metadata"]["labels"]]
    (name,) = asking.owned(REQUEST)
    assert waiting
    for manifest in waiting:
        annotations = manifest["metadata"]["annotations"]
        assert (annotations[CONSUMES], annotations[CLASS]) == (name, ATOMIC)
    others = [m for m in made if m not in waiting]
    assert others and all(CONSUMES not in m["metadata"]["annotations"] for m in others)


def test_a_restart_asks_for_nothing_twice_and_nothing_is_left_when_the_nodes_are_there() -> None:
    asking = Asking()
    key = asking.world.add(pool(workload=load(5 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    before, uids = set(asking.owned(REQUEST)), asking.uids(key)
    asking.restart()
    asking.steps()
    assert set(asking.owned(REQUEST)) == before and asking.uids(key) == uids
    (name,) = before
    asking.answer(name, "Accepted")
    asking.answer(name, "Provisioned")
    asking.steps(1)
    assert f"request {name}: provisioned" in asking.fleet_says()[1]
    for i in range(2):
        asking.world.add_node(gpu_node(f"new-{i}", gpus=2, labels=LABELS))
    asking.steps(4)
    assert asking.owned(REQUEST) == {} and asking.owned(TEMPLATE) == {}
    assert asking.uids(key) == uids and "" not in asking.nodes(key)
    assert asking.condition(key, "Ready") == ("True", "Serving")


def test_more_demand_is_a_request_of_its_own_for_what_is_not_asked_for_yet() -> None:
    asking = Asking()
    key = asking.world.add(pool(workload=load(3 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    (first,) = asking.owned(REQUEST)
    uids = asking.uids(key)
    asking.edit(key, workload=load(6 * RATE))
    asking.steps()
    assert uids <= asking.uids(key)
    both = asking.owned(REQUEST)
    assert first in both and len(both) == 2
    claims = [c for r in both.values() for c in r["metadata"]["annotations"][CLAIMS].split(",")]
    assert len(claims) == len(set(claims))


@pytest.mark.parametrize("answer", ["Failed", "CapacityRevoked", "BookingExpired"])
def test_an_answer_of_no_ends_the_waiting_at_once_and_is_told(answer: str) -> None:
    asking = Asking()
    key = asking.world.add(pool(workload=load(5 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    (name,) = asking.owned(REQUEST)
    asking.answer(name, answer, "no quota for p5 in region-1")
    asking.steps(2)
    assert asking.owned(REQUEST) == {} and asking.owned(TEMPLATE) == {}
    assert asking.nodes(key) == ["h0", "h0"]
    assert asking.fleet_says()[0] == "NoNodeCame"
    told = [e for e in asking.world.events if e.reason == "NodesNotProvisioned"]
    assert len(told) == 1 and "no quota for p5" in told[0].message and told[0].type == "Warning"
    asking.steps(20)
    assert asking.owned(REQUEST) == {}
    asking.world.now += 600.0
    asking.steps()
    assert len(asking.owned(REQUEST)) == 1


def test_where_nobody_takes_requests_nothing_is_bought_and_the_fleet_says_why() -> None:
    asking = Asking(served=False)
    key = asking.world.add(pool(workload=load(5 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    assert asking.nodes(key) == ["h0", "h0"] and asking.owned(REQUEST) == {}
    reason, words = asking.fleet_says()
    assert reason == "NotServed" and "--provisioning-requests" in words
    asking.world.served = frozenset({REQUEST})
    asking.steps()
    assert len(asking.owned(REQUEST)) == 1


def test_another_class_has_no_parameters_that_it_may_not_know() -> None:
    asking = Asking(provisioningClass="queued-provisioning.gke.io")
    asking.world.add(pool(workload=load(3 * RATE), parallelism={"maxTensor": 1}))
    asking.steps()
    (request,) = asking.owned(REQUEST).values()
    assert request["spec"]["provisioningClassName"] == "queued-provisioning.gke.io"
    assert "parameters" not in request["spec"]


def test_two_resources_ask_each_in_its_own_namespace() -> None:
    asking = Asking()
    for namespace in ("team-a", "team-b"):
        made = pool(workload=load(2 * RATE), parallelism={"maxTensor": 1})
        made["metadata"]["namespace"] = namespace
        asking.world.add(made)
    asking.steps()
    places = [(ns, name) for (kind, ns, name) in asking.world.owned if kind == REQUEST]
    waiting = {p.namespace for p in asking.world.engine_pods() if p.node is None}
    assert {ns for ns, _ in places} == waiting
    for one in asking.owned(REQUEST).values():
        names = [s["podTemplateRef"]["name"] for s in one["spec"]["podSets"]]
        assert all((TEMPLATE, one["metadata"]["namespace"], n) in asking.world.owned for n in names)
