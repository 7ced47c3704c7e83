"""The shipped admission policies on the real API server: refused for people, let through for Motley."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import samples
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused
from e2e.fixtures import Cluster
from e2e.motley import ROOT, Installation
from tests.isolation.templates import HARMLESS, ROWS

pytestmark = pytest.mark.e2e

NAMESPACE, EDITOR = "guarded", "edith"
NAMES = ("motley-pod-templates", "motley-pods", "motley-workloads")


def shipped() -> list[dict[str, Any]]:
    text = (ROOT / "charts" / "motley" / "install.yaml").read_text()
    return [d for d in yaml.safe_load_all(text) if d and d["metadata"]["name"] in NAMES]


def pool(template: dict[str, Any]) -> dict[str, Any]:
    return samples.pool("chat", NAMESPACE, 4, podTemplate=template)


def cascade(template: dict[str, Any]) -> dict[str, Any]:
    model = {"id": "Qwen/Qwen3-8B"}
    stages: list[dict[str, Any]] = [
        {"name": "small", "model": model},
        {"name": "large", "model": model, "podTemplate": template},
    ]
    table = {"configMapKeyRef": {"name": "t", "key": "t.csv"}}
    made = pool({})
    workload = made["spec"]["workload"]
    quality = {"floor": "50%", "calibration": table}
    return {
        **made,
        "kind": "ModelCascade",
        "spec": {"stages": stages, "quality": quality, "workload": workload},
    }


def job(template: dict[str, Any]) -> dict[str, Any]:
    return {
        **pool({}),
        "kind": "RLJob",
        "spec": {
            "framework": {"name": "areal"},
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "algorithm": {"batchPrompts": 64, "maxNewTokens": 2048, "steps": 100},
            "trainer": {"podTemplate": template},
            "storage": {"persistentVolumeClaim": {"claimName": "rl-shared"}},
        },
    }


@pytest.fixture(scope="module")
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    hands = Scenario(cluster.kubeconfig, cluster.local)
    folder: Path = tmp_path_factory.mktemp("operator")
    installed = Installation.install(cluster.kubeconfig, folder)
    api = installed.api
    try:
        hands.add_nodes(make_nodes("l40s", 1))
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        group = "rbac.authorization.k8s.io"
        metadata = {"name": "edits", "namespace": NAMESPACE}
        every = {"verbs": ["*"], "resources": ["*"]}
        rules = [
            {"apiGroups": ["motley.dev"], **every},
            {"apiGroups": ["", "apps", "batch"], **every},
        ]
        # Everything that exists in motley.dev, but not what the policy asks for.
        rules[0] = {**rules[0], "resources": ["servingpools", "modelcascades", "rljobs"]}
        api.apply(
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
        )
        api.apply(
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": "edits"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": EDITOR}],
            }
        )
        assert len(shipped()) == 6
        for document in shipped():
            api.apply(document)
        installed.start()
        yield installed
    finally:
        with suppress(Refused):
            for document in shipped():
                api.delete(document["kind"], "", document["metadata"]["name"])
            api.delete("Namespace", "", NAMESPACE)
        installed.stop()
        hands.close()


@pytest.fixture
def editor(cluster: Cluster, motley: Installation) -> Iterator[Api]:
    api = Api(str(cluster.kubeconfig), EDITOR)
    yield api
    api.close()


def refused_in_time(api: Api, manifest: dict[str, Any], says: str) -> None:
    """A policy takes a moment to be in force; until then a dry run is let through."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            _dry(api, manifest)
        except Refused as refusal:
            assert refusal.status == 403 and says in str(refusal), refusal
            return
        assert time.monotonic() < deadline, f"let through: {manifest}"
        time.sleep(0.2)


def _dry(api: Api, manifest: dict[str, Any]) -> None:
    plural = {"ServingPool": "servingpools", "ModelCascade": "modelcascades", "RLJob": "rljobs"}
    path = f"/apis/motley.dev/v1alpha1/namespaces/{NAMESPACE}/{plural[manifest['kind']]}"
    api.request("POST", f"{path}?dryRun=All", manifest)


def test_a_template_that_asks_for_the_node_is_refused_when_it_is_written(editor: Api) -> None:
    for row in ROWS:
        refused_in_time(editor, pool(row.template), "podTemplate may")
    disk = next(row.template for row in ROWS if row.needs == "HostPath")
    for make in (cascade, job):
        refused_in_time(editor, make(disk), "hostPath")
        _dry(editor, make(HARMLESS))
    _dry(editor, pool(HARMLESS))
    _dry(
        editor,
        {**pool({}), "spec": {k: v for k, v in pool({})["spec"].items() if k != "podTemplate"}},
    )


# Such pods have no Linux fields; /proc is unmasked only for users of the pod's own, whom baseline lets do it.
OTHERWISE = ("a Windows node", "an unmasked /proc")


def test_pod_security_itself_refuses_what_the_rows_say(motley: Installation) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    metadata = {"name": "baseline", "labels": labels}
    motley.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    account = {"name": "default", "namespace": "baseline"}
    motley.api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    path = "/api/v1/namespaces/baseline/pods?dryRun=All"
    minor = int(motley.api.request("GET", "/version")["minor"])
    for row in (*(each for each in ROWS if each.since <= minor), None):
        template = HARMLESS if row is None else row.template
        spec = {k: v for k, v in (template.get("spec") or {}).items() if k != "serviceAccountName"}
        spec["containers"] = [
            {"name": "engine", "image": "i", **c} for c in spec.get("containers") or [{}]
        ]
        meta = {"name": "p", **(template.get("metadata") or {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        try:
            motley.api.request("POST", path, pod)
            by_standard = False
        except Refused as refusal:
            by_standard = "violates PodSecurity" in str(refusal)
            if not by_standard:  # another rule of the API comes first
                assert row is not None and row.name in OTHERWISE, refusal
                continue
        assert by_standard == (row is not None and row.baseline), row


def workloads(labels: dict[str, str], container: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """What makes pods by a controller of Kubernetes: API root, kind, plural, spec."""
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    once = {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}
    selected = {"selector": {"matchLabels": labels}, "template": template}
    for kind in ("Deployment", "ReplicaSet", "DaemonSet"):
        yield "/apis/apps/v1", kind, f"{kind.lower()}s", selected
    yield "/apis/apps/v1", "StatefulSet", "statefulsets", {**selected, "serviceName": "fake"}
    yield "/apis/batch/v1", "Job", "jobs", {"template": once}
    cron = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": once}}}
    yield "/apis/batch/v1", "CronJob", "cronjobs", cron
    plain = {"selector": labels, "template": template}
    yield "/api/v1", "ReplicationController", "replicationcontrollers", plain


def test_only_motley_makes_and_changes_pods_with_its_labels(
    motley: Installation, editor: Api
) -> None:
    motley.apply([pool({})])
    motley.settle(
        60.0
    )  # its engines and, by the ReplicaSet controller, its gateway are let through
    pods = [p for p in motley.api.list("Pod") if p["metadata"]["namespace"] == NAMESPACE]
    engine = next(p for p in pods if "motley.dev/replica" in p["metadata"]["labels"])
    assert any(p["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway" for p in pods)
    name, labels = engine["metadata"]["name"], engine["metadata"]["labels"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    container = {"name": "c", "image": "i"}
    fake = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fake", "labels": labels},
        "spec": {"containers": [container]},
    }
    with pytest.raises(Refused, match="made and changed by Motley's operator only"):
        editor.request("POST", f"{path}?dryRun=All", fake)
    plain = {**fake, "metadata": {"name": "fake", "labels": {"app": "mine"}}}
    editor.request("POST", f"{path}?dryRun=All", plain)
    for change in (
        {"labels": {"motley.dev/serving": None}},
        {"labels": {"motley.dev/resource": None}},
        {"labels": {"motley.dev/stage": "other"}},
        {"annotations": {"motley.dev/unit": "{}"}},
    ):
        with pytest.raises(Refused, match="made and changed by Motley's operator only"):
            editor.patch("Pod", NAMESPACE, name, {"metadata": change})
    editor.patch("Pod", NAMESPACE, name, {"metadata": {"labels": {"team": "mine"}}})
    # Nor by a controller of Kubernetes, whose pods are let through.
    for root, kind, plural, spec in workloads(labels, container):
        metadata = {"name": "fake", "namespace": NAMESPACE}
        made = {
            "apiVersion": root.split("/", 2)[2],
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        }
        there = f"{root}/namespaces/{NAMESPACE}/{plural}?dryRun=All"
        with pytest.raises(Refused, match="made by Motley's operator only"):
            editor.request("POST", there, made)
        motley.api.request("POST", there, made)
        text = json.dumps(made).replace("motley.dev/", "example.org/")
        editor.request("POST", there, json.loads(text))
    gateway = "chat-gateway"
    held = motley.api.get("Deployment", NAMESPACE, gateway)
    assert held is not None
    (inside,) = held["spec"]["template"]["spec"]["containers"]
    for change in (
        {"spec": {"containers": [{**inside, "image": "other"}]}},
        {"metadata": {"labels": {"motley.dev/stage": "other"}}},
    ):
        with pytest.raises(Refused, match="made by Motley's operator only"):
            editor.patch("Deployment", NAMESPACE, gateway, {"spec": {"template": change}})
    restarted = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    for change in ({"replicas": 2}, {"template": restarted}):
        editor.patch("Deployment", NAMESPACE, gateway, {"spec": change})
    # An admin may: the check is a right, which cluster-admin has.
    motley.api.patch("Pod", NAMESPACE, name, {"metadata": {"annotations": {"note": "x"}}})
    # And the operator still drains and deletes what it made.
    motley.api.delete("ServingPool", NAMESPACE, "chat")
    motley.wait(lambda: not motley.look().pods, 120.0, "all pods are gone")
