"""ProvisioningRequests on the real control plane, under cluster-autoscaler's own CRD.

The CRD comes from the autoscaler's Go module at test time. In the autoscaler's place the test
answers: it accepts a request, adds the nodes that its templates ask for, and says so in the status.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from e2e import samples
from e2e.cluster.foreign import ForeignError, crds, module
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Refused
from e2e.fixtures import Cluster, installation
from e2e.motley import Installation

from motley_operator.domain import purchases
from motley_operator.domain.claims import CLAIM

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # run with the faults

NAMESPACE = "requested"
GROUP = f"/apis/autoscaling.x-k8s.io/v1/namespaces/{NAMESPACE}/provisioningrequests"
CRD = "config/crd/autoscaling.x-k8s.io_provisioningrequests.yaml"
LABELS = {"pool": "requested"}
SHAPE: dict[str, Any] = {
    "name": "l40s-4",
    "gpuProduct": "NVIDIA-L40S",
    "gpus": 4,
    "cpu": "94",
    "memory": "700Gi",
    "dollarsPerHour": "12",
    "maxNodes": 4,
    "labels": LABELS,
    "provision": "ProvisioningRequest",
}
FLEET: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "Fleet",
    "metadata": {"name": "default"},
    "spec": {"shapes": [SHAPE]},
}


def pool(rate: int) -> dict[str, Any]:
    return samples.pool("chat", NAMESPACE, rate, parallelism={"maxTensor": 1})


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    try:
        (found,) = crds("autoscaler", CRD)
    except ForeignError as error:
        pytest.skip(f"no CRD of cluster-autoscaler: {error}")
    return found


@pytest.fixture
def motley(cluster: Cluster, tmp_path: Path, definition: dict[str, Any]) -> Iterator[Installation]:
    nodes = make_nodes("l40s", 1, prefix="own")
    with installation(cluster, tmp_path, nodes, NAMESPACE) as installed:
        api = installed.api
        try:
            api.apply(definition)
            installed.wait(lambda: requests(installed) == [], 60.0, "the CRD is served")
            installed.grant("rules-provisioning.yaml")
            installed.start("--provisioning-requests")
            yield installed
        finally:
            api.delete("CustomResourceDefinition", "", definition["metadata"]["name"])
            for kind in ("ClusterRole", "ClusterRoleBinding"):
                api.delete(kind, "", "rules-provisioning")


def requests(motley: Installation) -> list[dict[str, Any]] | None:
    """All requests; None while the server does not know the kind."""
    try:
        found: list[dict[str, Any]] = motley.api.request("GET", GROUP)["items"]
    except (Refused, ValueError):  # of a group that is not there the answer is no JSON
        return None
    return found


def answer(motley: Installation, request: dict[str, Any], kind: str, message: str = "") -> None:
    """A condition, as the autoscaler writes it."""
    path = f"{GROUP}/{request['metadata']['name']}/status"
    rows = (motley.api.request("GET", path).get("status") or {}).get("conditions") or []
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {"type": kind, "status": "True", "reason": kind, "message": message}
    status = {"status": {"conditions": [*rows, {**row, "lastTransitionTime": now}]}}
    motley.api.request("PATCH", path, status, "application/merge-patch+json")


def engines(motley: Installation) -> dict[str, dict[str, Any]]:
    return {
        pod["metadata"]["name"]: pod
        for pod in motley.api.list("Pod")
        if pod["metadata"]["namespace"] == NAMESPACE
        and "motley.dev/replica" in pod["metadata"].get("labels", {})
    }


def unbound(motley: Installation) -> dict[str, dict[str, Any]]:
    """Engines that wait for a node that is to come; others are pinned and bound in a moment."""
    found = engines(motley).items()
    return {n: p for n, p in found if CLAIM in p["metadata"]["labels"] and not _node(p)}


def _node(pod: dict[str, Any]) -> str:
    return str(pod["spec"].get("nodeName") or "")


def provisioned(motley: Installation) -> tuple[str, str]:
    fleet = motley.api.get("Fleet", "", "default") or {}
    rows = {c["type"]: c for c in fleet.get("status", {}).get("conditions", ())}
    row = rows.get("Provisioned", {})
    return str(row.get("reason")), str(row.get("message"))


def test_all_nodes_of_a_plan_are_asked_for_at_once_and_an_answer_of_no_ends_it(
    motley: Installation, scenario: Scenario
) -> None:
    motley.apply([FLEET, pool(130)])
    motley.wait(lambda: provisioned(motley)[0] == "WaitingForNodes", 120.0, "nodes are asked for")
    motley.wait(lambda: bool(requests(motley)), 30.0, "by a request")
    (request,) = requests(motley) or ()
    count = sum(s["count"] for s in request["spec"]["podSets"])
    motley.wait(lambda: len(unbound(motley)) == count, 30.0, "for as many pods as wait")
    waiting = unbound(motley)
    claims = request["metadata"]["annotations"][purchases.CLAIMS].split(",")
    assert len(claims) >= 2
    for pod in waiting.values():
        assert pod["metadata"]["annotations"][purchases.CONSUMES] == request["metadata"]["name"]
    for each in request["spec"]["podSets"]:
        path = f"/api/v1/namespaces/{NAMESPACE}/podtemplates/{each['podTemplateRef']['name']}"
        assert motley.api.request("GET", path)["template"]["spec"]["nodeSelector"] == LABELS

    # A restart asks for nothing again.
    motley.kill()
    motley.start("--provisioning-requests")
    answer(motley, request, "Accepted")
    motley.wait(lambda: ": accepted" in provisioned(motley)[1], 90.0, "the answer is read")
    time.sleep(1.0)
    assert [r["metadata"]["uid"] for r in requests(motley) or ()] == [request["metadata"]["uid"]]
    uids = {n: p["metadata"]["uid"] for n, p in engines(motley).items()}

    nodes = make_nodes("l40s", len(claims), prefix="asked")
    for node in nodes:
        node["metadata"]["labels"] |= LABELS
    answer(motley, request, "Provisioned")  # as the autoscaler does, before the nodes are there
    motley.wait(lambda: ": provisioned" in provisioned(motley)[1], 90.0, "this answer is read")
    scenario.add_nodes(nodes)
    motley.settle(150.0)
    assert {n: p["metadata"]["uid"] for n, p in engines(motley).items()} == uids
    motley.wait(lambda: requests(motley) == [], 60.0, "a request that was met goes")
    assert provisioned(motley)[0] == "NothingAwaited"

    motley.apply([pool(400)])
    motley.wait(lambda: bool(requests(motley)), 90.0, "more is asked for")
    (second,) = requests(motley) or ()
    answer(motley, second, "Failed", "no quota in region-1")
    motley.wait(lambda: provisioned(motley)[0] == "NoNodeCame", 60.0, "no is an answer")
    motley.wait(lambda: requests(motley) == [], 60.0, "and nothing waits for it any more")
    assert all(p["spec"].get("nodeName") for p in engines(motley).values())
    path = f"/api/v1/namespaces/{NAMESPACE}/events"
    told = [e for e in motley.api.request("GET", path)["items"]]
    assert any(
        e["reason"] == "NodesNotProvisioned" and "no quota in region-1" in e["message"]
        for e in told
    )


def test_what_the_autoscaler_calls_things_is_what_motley_calls_them() -> None:
    try:
        folder = module("autoscaler")
    except ForeignError as error:
        pytest.skip(str(error))
    source = (folder / "provisioningrequest/autoscaling.x-k8s.io/v1/types.go").read_text()
    names = (purchases.CONSUMES, purchases.CLASS, purchases.ACCEPTED, purchases.PROVISIONED)
    for name in (*names, *purchases.OVER, "best-effort-atomic-scale-up.autoscaling.x-k8s.io"):
        assert f'"{name}"' in source, name
