"""A ResourceQuota and a LimitRange on the real API server: rows of the plan, and never a 403."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from e2e import samples
from e2e.cluster.nodes import make_nodes
from e2e.demo_api import Refused
from e2e.fixtures import Cluster, installation
from e2e.motley import Installation

pytestmark = pytest.mark.e2e

SLICES = "/apis/resource.k8s.io/v1/resourceslices"
NAMESPACE, GPUS = "limited", "requests.nvidia.com/gpu"
PLACE = ("ServingPool", NAMESPACE, "chat")
QUOTA = f"ResourceQuota {NAMESPACE}/gpus: {GPUS}"


def pool(rate: int, where: str = "old") -> dict[str, Any]:
    placement = {"nodeSelector": {"e2e.motley.dev/rack": where}}
    return samples.pool("chat", NAMESPACE, rate, gateway={"replicas": 1}, placement=placement)


def limit(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}


def quota(gpus: int) -> dict[str, Any]:
    # The server counts requests of GPUs only, so the last line limits nothing.
    hard = {GPUS: str(gpus), "pods": "9", "limits.nvidia.com/gpu": "0"}
    return limit("ResourceQuota", "gpus", {"hard": hard})


def node_by_dra() -> dict[str, Any]:
    """A node whose GPUs no device plugin offers."""
    node = make_nodes("l40s", 1, prefix="by-dra")[0]
    for amounts in (node["status"]["allocatable"], node["status"]["capacity"]):
        amounts.pop("nvidia.com/gpu")
    return node


@pytest.fixture(scope="module")
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    old, new = make_nodes("l40s", 2)
    old["metadata"]["labels"]["e2e.motley.dev/rack"] = "old"
    new["metadata"]["labels"]["e2e.motley.dev/rack"] = "new"
    folder = tmp_path_factory.mktemp("operator")
    with installation(cluster, folder, [old, new, node_by_dra()], NAMESPACE) as installed:
        try:
            installed.start()
            yield installed
        finally:
            with suppress(Refused):
                installed.api.request("DELETE", f"{SLICES}/gpus-by-dra")


def engines(motley: Installation) -> dict[str, str]:
    """Ready engine pods of the namespace and their nodes."""
    return {
        pod["metadata"]["uid"]: pod["spec"].get("nodeName", "")
        for pod in motley.api.list("Pod")
        if pod["metadata"]["namespace"] == NAMESPACE
        and "motley.dev/stage" in pod["metadata"].get("labels", {})
        and any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod.get("status", {}).get("conditions", ())
        )
        and "deletionTimestamp" not in pod["metadata"]
    }


def planned(motley: Installation) -> tuple[str, str]:
    """Reason and message of the condition Planned, of the present spec."""
    found = motley.api.get(*PLACE) or {}
    status = found.get("status") or {}
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return "", ""
    rows = {c["type"]: c for c in status.get("conditions") or ()}
    row = rows.get("Planned") or {}
    return str(row.get("reason")), str(row.get("message"))


def until(motley: Installation, count: int, said: str) -> dict[str, str]:
    def is_so() -> bool:
        return len(engines(motley)) == count and said in planned(motley)[1]

    motley.wait(is_so, 20.0, f"{count} engines, {said}")
    return engines(motley)


def answers(cluster: Cluster) -> Counter[tuple[str, int]]:
    """How often the server answered a request of Motley's in the namespace, by kind and status."""
    assert cluster.local is not None
    return Counter(
        (event["objectRef"]["resource"], event.get("responseStatus", {}).get("code", 0))
        for event in map(json.loads, cluster.local.audit_log.read_text().splitlines())
        if event["user"]["username"] == "system:serviceaccount:motley-system:motley"
        and "dryRun=" not in event["requestURI"]  # a full quota may be said there
        and event.get("objectRef", {}).get("namespace") == NAMESPACE
    )


def test_a_quota_is_a_row_of_the_plan_and_no_pod_is_ever_refused(
    motley: Installation, cluster: Cluster
) -> None:
    motley.apply([pool(4)])
    motley.wait(lambda: len(engines(motley)) == 1, 20.0, "one engine")
    motley.api.apply(quota(2))
    motley.api.apply(pool(1000))
    before = until(motley, 2, QUOTA)
    assert planned(motley)[0] == "QuotaTooLow"
    assert planned(motley)[1].startswith(QUOTA)
    bound = (motley.api.get(*PLACE) or {})["status"]["plan"]["binding"]
    assert bound[0]["constraint"] == QUOTA and bound[0]["relax"].startswith("2 -> ")

    # Raised: the next ones come, and those that run stay.
    motley.api.apply(quota(4))
    raised = until(motley, 4, f"{QUOTA}: ")
    assert before.keys() <= raised.keys()

    # All of them move while the quota is full: each waits for one that goes, and most serve on.
    motley.api.apply(pool(1000, "new"))
    fewest = [4]

    def all_moved() -> bool:
        there = engines(motley)
        fewest.append(len(there))
        return sorted(there.values()) == ["l40s-2"] * 4

    motley.wait(all_moved, 30.0, "all on the other node")
    assert min(fewest) >= 3

    # Lowered, and a limit range that admits none: nothing that runs is touched.
    running = engines(motley).keys()
    small = {"limits": [{"type": "Container", "max": {"nvidia.com/gpu": "0"}}]}
    motley.api.apply(limit("LimitRange", "small", small))
    motley.api.apply(quota(1))
    motley.api.apply(pool(1001, "new"))
    until(motley, 4, f"LimitRange {NAMESPACE}/small: maximum nvidia.com/gpu usage per Container")
    assert f"{QUOTA}: " in planned(motley)[1]
    assert engines(motley).keys() == running
    answered = answers(cluster)
    assert answered["pods", 201] >= 8, answered
    assert [place for place, status in answered if status == 403] == []
    events = motley.api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
    assert events
    assert [e["message"] for e in events if e.get("reason") == "PodRefused"] == []


def test_gpus_by_dra_are_said_on_the_fleet_and_not_planned(motley: Installation) -> None:
    try:
        motley.api.request("GET", SLICES)
    except Refused:
        pytest.skip("this API server has no resource.k8s.io/v1 (Kubernetes before 1.34)")
    slice_ = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "gpus-by-dra"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "by-dra-1",
            "pool": {"name": "by-dra-1", "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {"name": f"gpu-{i}", "attributes": {"type": {"string": "gpu"}}} for i in range(3)
            ],
        },
    }
    motley.api.request("POST", SLICES, slice_)
    fleet = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet", "metadata": {"name": "default"}}
    motley.apply([fleet | {"spec": {}}])

    def is_said() -> bool:
        status = (motley.api.get("Fleet", "", "default") or {}).get("status") or {}
        rows = {c["type"]: c["message"] for c in status.get("conditions") or ()}
        return "3 devices of gpu.nvidia.com (devices by DRA are not" in rows.get("Ready", "")

    motley.wait(is_said, 15.0, "the Fleet tells of the devices")
