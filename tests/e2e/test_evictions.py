"""What a drain may evict: by the disruption controller's own word, and by the eviction API's."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.trial import SETTLE_S, Trial
from kubernetes.client.exceptions import ApiException

from motley_operator.domain.names import COMPONENT, GATEWAY, budget_name, gateway_budget_name

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "edited"
ENGINES, GATEWAYS = budget_name(NAME, "main"), gateway_budget_name(NAME)
Document = dict[str, Any]


def budget(trial: Trial, name: str) -> Document | None:
    """A disruption budget, or None."""
    return trial.api.get("PodDisruptionBudget", trial.namespace, name)


def allowed(trial: Trial, name: str, pods: int) -> int | None:
    """How many pods may be evicted, once the disruption controller has counted so many healthy ones."""
    found = budget(trial, name) or {"metadata": {"generation": 0}}
    told = found.get("status") or {}
    is_current = told.get("observedGeneration") == found["metadata"]["generation"]
    counts = (told.get("expectedPods"), told.get("currentHealthy"))
    return told["disruptionsAllowed"] if is_current and counts == (pods, pods) else None


def counted(trial: Trial, name: str, pods: int) -> int:
    """The same, waited for."""
    trial.wait(lambda: allowed(trial, name, pods) is not None, SETTLE_S, f"{name} is counted")
    found = allowed(trial, name, pods)
    assert found is not None
    return found


def evicted(trial: Trial, names: list[str]) -> list[int]:
    """The eviction API's answers, one pod after the other, without a pause."""
    answers = []
    for name in names:
        metadata = {"name": name, "namespace": trial.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        try:
            trial.hands.core.create_namespaced_pod_eviction(name, trial.namespace, body)
            answers.append(201)
        except ApiException as error:
            answers.append(error.status)
    return answers


def planned(trial: Trial) -> int:
    """Replicas of the plan; each is one pod here."""
    return sum(group["count"] for group in trial.status(NAME)["plan"]["groups"])


def gateways(trial: Trial) -> dict[str, str]:
    """UIDs of the gateway's pods by name, of those that stay."""
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"]
        for pod in trial.owned("Pod", NAME)
        if pod["metadata"]["labels"][COMPONENT] == GATEWAY
        and "deletionTimestamp" not in pod["metadata"]
    }


def assert_one_engine_at_a_time(trial: Trial) -> None:
    """The budget is the plan's; of all engines the first may be evicted, and is replaced."""
    before, pods = trial.settle(), planned(trial)
    found = budget(trial, ENGINES)
    assert found is not None and found["spec"]["minAvailable"] == pods - 1
    assert counted(trial, ENGINES, pods) == 1
    mine = trial.pods_of(before, NAME)
    names = {uid: before.pods[uid].name for uid in sorted(mine)}
    assert len(names) == pods
    assert evicted(trial, [*names.values()]) == [201] + (pods - 1) * [429]
    first = next(iter(names))
    trial.wait(lambda: first not in trial.motley.look().pods, SETTLE_S, "the evicted pod is gone")
    after = trial.settle()
    assert mine - {first} == mine & trial.pods_of(after, NAME)
    assert len(trial.pods_of(after, NAME)) == pods
    assert trial.pods_of(before, "bystander") == trial.pods_of(after, "bystander")


def test_a_disruption_budget_follows_its_plan_up_and_down(trial: Trial) -> None:
    sizes = [planned(trial)]
    assert_one_engine_at_a_time(trial)
    for rate in (30, 3):
        trial.edit(NAME, rate)
        before = sizes[-1]
        trial.wait(lambda before=before: planned(trial) != before, SETTLE_S, "another plan")
        trial.settle()
        sizes.append(planned(trial))
        assert_one_engine_at_a_time(trial)
    print(f"{sizes} replicas")
    assert sizes[0] < sizes[1] > sizes[2]


def test_of_two_gateway_pods_one_may_be_evicted_and_of_one_that_one(trial: Trial) -> None:
    trial.settle()
    for replicas, answers in ((2, [201, 429]), (1, [201]), (3, [201, 429, 429])):
        spec = {"spec": {"gateway": {"replicas": replicas}}}
        trial.api.patch("ServingPool", trial.namespace, NAME, spec)
        trial.wait(lambda n=replicas: len(gateways(trial)) == n, SETTLE_S, "so many gateways")
        trial.settle()
        found = budget(trial, GATEWAYS)
        if replicas == 1:
            assert found is None
        else:
            assert found is not None and found["spec"]["maxUnavailable"] == 1
            assert counted(trial, GATEWAYS, replicas) == 1
        before = gateways(trial)
        assert evicted(trial, [*before]) == answers
        trial.wait(
            lambda old=before, n=replicas: (
                len(gateways(trial)) == n and len(gateways(trial).items() & old.items()) == n - 1
            ),
            SETTLE_S,
            "the evicted one is made again",
        )
    trial.settle()
