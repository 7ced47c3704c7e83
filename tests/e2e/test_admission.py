"""What is thought to be admitted and counted, against what the real API server admits and counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from e2e.demo_api import Api, Refused
from e2e.fixtures import Cluster

from motley_operator.admission.containers import sized
from motley_operator.admission.counting import charged, not_set, pod_use, use_of
from motley_operator.admission.limitranges import filled_in, refused_by
from motley_operator.connection import ApiError
from motley_operator.facts.quotas import parse_limit_range, parse_quota

pytestmark = pytest.mark.e2e

GPU = "nvidia.com/gpu"


def resources(requests: dict[str, str], limits: dict[str, str]) -> dict[str, Any]:
    return {"requests": requests, "limits": limits}


OURS = resources({"cpu": "4", "memory": "16Gi"}, {GPU: "1"})
LIMITED = resources({"cpu": "1", "memory": "1Gi"}, {"cpu": "2", "memory": "3Gi"})
BARE = resources({}, {})


def spec(*containers: dict[str, Any], init: tuple[Any, ...] = (), **more: Any) -> dict[str, Any]:
    def named(kind: str, given: Any) -> list[dict[str, Any]]:
        return [
            {"name": f"{kind}{i}", "image": "none", "resources": each.get("resources", each)}
            | ({"restartPolicy": "Always"} if each.get("sidecar") else {})
            for i, each in enumerate(given)
        ]

    made = {"schedulerName": "nobody", "containers": named("c", containers), **more}
    return made | ({"initContainers": named("i", init)} if init else {})


PODS: dict[str, dict[str, Any]] = {
    "ours": spec(OURS),
    "ours and a limited one": spec(OURS, LIMITED),
    "limited": spec(LIMITED),
    "bare": spec(BARE),
    "only limits": spec(resources({}, {"cpu": "2", "memory": "1Gi"})),
    "a large init container": spec(LIMITED, init=(OURS,)),
    "sidecars": spec(LIMITED, init=({"resources": LIMITED, "sidecar": True}, OURS)),
    "ends": spec(LIMITED, activeDeadlineSeconds=60),
    "storage": spec(resources({"ephemeral-storage": "1Gi"}, {"ephemeral-storage": "2Gi"})),
}
RANGES: dict[str, list[dict[str, Any]]] = {
    "max of a container": [{"type": "Container", "max": {"cpu": "3", "memory": "8Gi"}}],
    "max of GPUs": [{"type": "Container", "max": {GPU: "0"}}],
    "max of a pod": [{"type": "Pod", "max": {"cpu": "4"}}],
    "max of a pod's memory": [{"type": "Pod", "max": {"memory": "4Gi"}}],
    "min of a container": [{"type": "Container", "min": {"cpu": "1500m"}}],
    "min of a pod": [{"type": "Pod", "min": {"memory": "2Gi"}}],
    "default below a request": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}}],
    "defaults": [
        {
            "type": "Container",
            "default": {"cpu": "8", "memory": "32Gi"},
            "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
        }
    ],
    "ratio": [{"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}],
    "ratio by defaults": [
        {
            "type": "Container",
            "default": {"memory": "32Gi"},
            "maxLimitRequestRatio": {"memory": "2"},
        }
    ],
    "ratio of a pod": [{"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}],
    "claims": [{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}],
}
QUOTAS: dict[str, dict[str, Any]] = {
    "everything": {
        "pods": "99",
        "count/pods": "99",
        "cpu": "999",
        "requests.cpu": "999",
        "memory": "9Ti",
        "requests.memory": "9Ti",
        f"requests.{GPU}": "99",
        f"limits.{GPU}": "0",
    },
    "storage": {"requests.ephemeral-storage": "1Ti", "limits.ephemeral-storage": "1Ti"},
    "limits of cpu": {"limits.cpu": "999"},
    "limits of memory": {"limits.memory": "9Ti"},
}
SCOPES = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass")


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    made = Api(str(cluster.kubeconfig))
    yield made
    made.close()


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    name = f"judged-{time.monotonic_ns()}"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = {"name": "default", "namespace": name}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    yield name
    with suppress(Refused):
        api.delete("Namespace", "", name)


def admits(api: Api, namespace: str, pod: dict[str, Any], name: str, query: str) -> bool:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
    try:
        api.request("POST", f"/api/v1/namespaces/{namespace}/pods{query}", document)
    except Refused as error:
        assert error.status in (403, 422), error
        assert not ApiError(error.status, "", str(error), None).lacks_right
        return False
    return True


def made(api: Api, kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return api.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec})


@pytest.mark.parametrize("name", RANGES)
def test_limit_ranges_are_judged_as_the_server_judges_them(
    name: str, api: Api, namespace: str
) -> None:
    document = made(api, "LimitRange", namespace, "limits", {"limits": RANGES[name]})
    written = {"metadata": document["metadata"], "spec": {"limits": RANGES[name]}}
    stored, derived = parse_limit_range(document), parse_limit_range(written)
    assert stored == derived
    for pod_name, pod in PODS.items():
        ours = refused_by(filled_in(sized(pod), [stored]), [stored]) is None
        assert ours == admits(api, namespace, pod, "p", "?dryRun=All"), pod_name


def until_taken_over(api: Api, namespace: str, name: str) -> None:
    deadline = time.monotonic() + 10.0
    while True:
        found = api.get("ResourceQuota", namespace, name) or {}
        status = found.get("status") or {}
        if status.get("hard") == found["spec"]["hard"] and "used" in status:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def in_use(api: Api, namespace: str) -> dict[str, int]:
    used = parse_quota(api.get("ResourceQuota", namespace, "q") or {}).used
    return {resource: amount for resource, amount in used.items() if amount}


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_ask_and_count_as_the_server_does(name: str, api: Api, namespace: str) -> None:
    made(api, "ResourceQuota", namespace, "q", {"hard": QUOTAS[name]})
    until_taken_over(api, namespace, "q")
    document = api.get("ResourceQuota", namespace, "q")
    assert document is not None
    quota = parse_quota(document)
    total: dict[str, int] = {}
    for i, (pod_name, pod) in enumerate(PODS.items()):
        seen = sized(pod)
        ours = not_set(quota, seen, use_of(seen, pod)) is None
        assert ours == admits(api, namespace, pod, f"p{i}", ""), pod_name
        for resource, amount in charged(quota, pod_use(pod)).items() if ours else ():
            total[resource] = total.get(resource, 0) + amount
    # The controller counts anew now and then, from a cache that may lack the last pod for a moment.
    deadline = time.monotonic() + 10.0
    while (used := in_use(api, namespace)) != total and time.monotonic() < deadline:
        time.sleep(0.05)
    assert used == total


def test_scopes_select_the_pods_that_the_server_selects(api: Api, namespace: str) -> None:
    for scope in SCOPES:
        wanted = {"hard": {"pods": "99"}, "scopes": [scope]}
        made(api, "ResourceQuota", namespace, scope.lower(), wanted)
        until_taken_over(api, namespace, scope.lower())
    classed = spec(LIMITED, priorityClassName="system-cluster-critical")
    expected = dict.fromkeys((scope.lower() for scope in SCOPES), 0)
    pods = {**PODS, "classed": classed}
    for i, pod in enumerate(pods.values()):
        if not admits(api, namespace, pod, f"p{i}", ""):
            continue
        for scope in SCOPES:
            metadata = {"name": scope, "namespace": namespace}
            written = {"hard": {"pods": "99"}, "scopes": [scope]}
            quota = parse_quota({"metadata": metadata, "spec": written})
            expected[scope.lower()] += charged(quota, pod_use(pod)).get("pods", 0)
    used = {
        name: parse_quota(api.get("ResourceQuota", namespace, name) or {}).used["pods"]
        for name in expected
    }
    assert used == expected
    assert min(used.values()) >= 1
