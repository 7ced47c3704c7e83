"""A namespace that enforces `restricted`, and NetworkPolicies, on the real control plane.

No network plugin runs here: which connections pass is judged in tests/isolation. Here the API server
judges the pods, and what the operator keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import demo_operator, samples
from e2e.cluster.nodes import demo_nodes
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SPACE = "closed"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{SPACE}/networkpolicies"
NOBODY = {"runAsNonRoot": True, "runAsUser": 1000}
Document = dict[str, Any]


def pool(name: str, **spec: Any) -> Document:
    """A small pool in the closed namespace."""
    return samples.pool(name, SPACE, 1, **spec)


def grant_policies(installed: Installation) -> None:
    """What the chart grants with `networkPolicy.engines`."""
    group = "rbac.authorization.k8s.io"
    common = {"apiVersion": f"{group}/v1", "metadata": {"name": "motley-network"}}
    rules = yaml.safe_load((ROOT / "charts/motley/files/rules-network.yaml").read_text())
    installed.api.apply({**common, "kind": "ClusterRole", "rules": rules})
    role = {"apiGroup": group, "kind": "ClusterRole", "name": "motley-network"}
    account = {"name": demo_operator.ACCOUNT, "namespace": demo_operator.NAMESPACE}
    subjects = [{"kind": "ServiceAccount", **account}]
    binding = {**common, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": subjects}
    installed.api.apply(binding)


@pytest.fixture(scope="module")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An operator that makes policies, and a namespace that enforces `restricted`."""
    hands = Scenario(cluster.kubeconfig, cluster.local)
    made = Installation.install(cluster.kubeconfig, tmp_path_factory.mktemp("operator"))
    try:
        hands.add_nodes(demo_nodes())
        grant_policies(made)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": SPACE, "labels": labels}
        made.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        yield made
    finally:
        made.stop()
        hands.close()


def test_before_the_operator_looks_a_resource_says_so(installed: Installation) -> None:
    template = {"spec": {"securityContext": NOBODY}}
    installed.apply([pool("chat", podTemplate=template)])
    found = installed.api.get("ServingPool", SPACE, "chat")
    assert found is not None
    assert found["status"] == {"observedGeneration": -1}


def test_a_pool_is_served_where_only_restricted_pods_may_run(installed: Installation) -> None:
    installed.process = demo_operator.start(
        installed.folder, "--network-policies", "--metrics-namespaces=monitoring"
    )
    installed.settle()
    found = installed.api.get("ServingPool", SPACE, "chat")
    assert found is not None
    ready = {c["type"]: c["status"] for c in found["status"]["conditions"]}
    assert ready["Ready"] == "True"
    pods = installed.api.list("Pod", labelSelector="app.kubernetes.io/managed-by=motley")
    here = [p for p in pods if p["metadata"]["namespace"] == SPACE]
    components = {p["metadata"]["labels"]["app.kubernetes.io/component"] for p in here}
    assert components == {"gateway", "serve"}


def test_the_policies_are_there_and_are_written_once(installed: Installation) -> None:
    def look() -> dict[str, str]:
        items = installed.api.request("GET", POLICIES)["items"]
        return {i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in items}

    before = look()
    assert set(before) == {"chat-engines", "chat-gateway"}
    installed.api.patch(
        "ServingPool",
        SPACE,
        "chat",
        {"metadata": {"annotations": {"motley.dev/replan-requested-at": "2026-11-21T12:00:00Z"}}},
    )
    installed.settle()
    assert look() == before


def test_a_policy_that_somebody_deletes_comes_back(installed: Installation) -> None:
    installed.api.request("DELETE", f"{POLICIES}/chat-engines")

    def is_back() -> bool:
        items = installed.api.request("GET", POLICIES)["items"]
        return "chat-engines" in {item["metadata"]["name"] for item in items}

    installed.wait(is_back, 20.0, "the policy is made again")


def test_an_image_that_runs_as_root_is_refused_there_and_the_resource_says_why(
    installed: Installation,
) -> None:
    installed.apply([pool("rooted")])

    def is_said() -> bool:
        events = installed.api.request("GET", f"/api/v1/namespaces/{SPACE}/events")["items"]
        refused = [e["message"] for e in events if e["reason"] == "PodRefused"]
        return any("runAsNonRoot" in message for message in refused)

    installed.wait(is_said, 20.0, "an Event names runAsNonRoot")
