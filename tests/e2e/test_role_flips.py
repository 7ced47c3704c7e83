"""Prefill and decode on the real control plane: a shift of the mix changes roles, and no pod."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation

from motley_operator.domain.names import COLUMN, UNIT
from motley_planner.dispatch import parse_routing

pytestmark = pytest.mark.e2e

NAMESPACE = "flips"
PLACE = ("ServingPool", NAMESPACE, "chat")
LONG_PROMPTS, LONG_ANSWERS = (3000, 100, "5"), (1000, 600, "3.5")


def workload(prompt: int, answer: int, rate: str) -> dict[str, Any]:
    lengths = {"name": "all", "promptTokens": prompt, "outputTokens": answer}
    return {"requestsPerSecond": rate, "classes": [lengths]}


POOL: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "ServingPool",
    "metadata": {"name": "chat", "namespace": NAMESPACE},
    "spec": {
        "model": {"id": "meta-llama/Llama-3.1-8B-Instruct"},
        "workload": workload(*LONG_PROMPTS),
        "slo": {"ttft": {"p95": "3s"}, "tpot": {"p95": "100ms"}},
        "disaggregation": "Always",
        "budget": {"gpus": 3},
    },
}


@pytest.fixture
def motley(
    cluster: Cluster, scenario: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    scenario.add_nodes(make_nodes("l40s", 1))
    installed = Installation.install(cluster.kubeconfig, tmp_path_factory.mktemp("operator"))
    try:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        installed.api.apply(space)
        installed.start()
        yield installed
    finally:
        installed.clear(grace_s=0)
        installed.api.delete("Namespace", "", NAMESPACE)
        installed.stop()


def pods(scenario: Scenario) -> dict[str, Any]:
    found = scenario.core.list_namespaced_pod(NAMESPACE, label_selector="motley.dev/replica").items
    return {pod.metadata.name: pod for pod in found}


def roles(scenario: Scenario) -> dict[str, str]:
    """What each engine pod says that it does, by name."""
    found = pods(scenario).items()
    return {n: json.loads(p.metadata.annotations[UNIT]).get("phase", "both") for n, p in found}


def routed(scenario: Scenario) -> dict[str, str]:
    """What the gateway is told that each replica does, by name."""
    text = scenario.core.read_namespaced_config_map("chat-routing", NAMESPACE).data["routing.json"]
    (stage,) = parse_routing(json.loads(text)).stages
    found = dict.fromkeys((r.name for r in stage.prefill), "prefill")
    return found | dict.fromkeys((r.name for r in stage.decode), "decode")


def uids(scenario: Scenario) -> set[str]:
    return {pod.metadata.uid for pod in pods(scenario).values()}


def shift(motley: Installation, mix: tuple[int, int, str]) -> None:
    motley.api.patch(*PLACE, {"spec": {"workload": workload(*mix)}})


def test_roles_change_with_the_mix_and_back_and_every_pod_stays(
    motley: Installation, scenario: Scenario
) -> None:
    motley.apply([POOL])
    motley.settle(60.0)
    first = roles(scenario)
    assert Counter(first.values()) == {"prefill": 2, "decode": 1}
    there, before = uids(scenario), pods(scenario)

    shift(motley, LONG_ANSWERS)
    wanted = {"prefill": 1, "decode": 2}
    motley.wait(lambda: Counter(roles(scenario).values()) == wanted, 20.0, "a role changes")
    motley.settle(40.0)
    then = roles(scenario)
    assert Counter(then.values()) == wanted and uids(scenario) == there
    assert routed(scenario) == then
    (changed,) = (name for name in then if then[name] != first[name])
    now = pods(scenario)[changed]
    assert now.spec == before[changed].spec
    assert now.metadata.labels[COLUMN] != before[changed].metadata.labels[COLUMN]
    last = (motley.api.get(*PLACE) or {})["status"]["lastReplan"]
    assert (last["tier"], last["reason"], last["flipped"]) == ("T1", "PhaseShifted", 1)
    if scenario.local is not None:
        writes = [
            (r.verb, r.resource, r.name)
            for r in scenario.event_log()
            if r.namespace == NAMESPACE and r.name in (changed, "chat-routing")
        ]
        told = max(i for i, w in enumerate(writes) if w == ("patch", "pods", changed))
        sent = max(i for i, w in enumerate(writes) if w[1:] == ("configmaps", "chat-routing"))
        assert told < sent  # the pod is told before its gateway is

    # A restart reads the roles back, and moves nothing.
    motley.kill()
    motley.start()
    motley.settle(40.0)
    assert roles(scenario) == then == routed(scenario) and uids(scenario) == there

    shift(motley, LONG_PROMPTS)
    motley.wait(lambda: Counter(roles(scenario).values()) == Counter(first.values()), 20.0, "back")
    motley.settle(40.0)
    assert uids(scenario) == there and routed(scenario) == roles(scenario)
