"""Weights that a Job fetches, on the real control plane: its Job controller, its authorizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused, path_of
from e2e.fixtures import Cluster
from e2e.motley import Installation
from e2e.volumes import bound_claim

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # run with the faults

NAMESPACE, RESTRICTED = "fetched", "fetched-restricted"
PLACE = ("ServingPool", NAMESPACE, "chat")
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:chat-weights"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
POOL: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "ServingPool",
    "metadata": {"name": "chat", "namespace": NAMESPACE},
    "spec": {
        "model": {
            "id": "Qwen/Qwen3-8B",
            "cache": {"persistentVolumeClaim": {"claimName": "models", "subPath": "hub"}},
        },
        "workload": {
            "requestsPerSecond": 6,
            "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
        },
    },
}


@pytest.fixture
def motley(cluster: Cluster, tmp_path: Path) -> Iterator[Installation]:
    hands = Scenario(cluster.kubeconfig, cluster.local)
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    try:
        hands.add_nodes(make_nodes("l40s", 2))
        for name, labels in (
            (NAMESPACE, {}),
            (RESTRICTED, {"pod-security.kubernetes.io/enforce": "restricted"}),
        ):
            metadata = {"name": name, "labels": labels}
            installed.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        installed.start()
        yield installed
    finally:
        for kind, name in (
            ("Namespace", NAMESPACE),
            ("Namespace", RESTRICTED),
            ("PersistentVolume", "fetched-models"),
        ):
            installed.api.delete(kind, "", name)
        installed.wait(
            lambda: not left_of(installed.api), 60.0, "the next test finds no namespaces"
        )
        installed.stop()
        hands.close()


def left_of(api: Api) -> list[str]:
    """Namespaces of these tests that are still there."""
    return [name for name in (NAMESPACE, RESTRICTED) if api.get("Namespace", "", name)]


def jobs(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.request("GET", JOBS)["items"]
    return found


def weights(motley: Installation, place: tuple[str, str, str] = PLACE) -> tuple[str, str, str]:
    """The condition WeightsReady: status, reason, message."""
    found = motley.api.get(*place) or {}
    rows = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or ()}
    row = rows.get("WeightsReady") or {}
    return str(row.get("status")), str(row.get("reason")), str(row.get("message"))


def test_weights_are_fetched_once_before_the_first_engine_and_a_restart_changes_nothing(
    motley: Installation, cluster: Cluster
) -> None:
    api = motley.api
    motley.apply([POOL])
    motley.wait(lambda: weights(motley)[1] == "DownloadPending", 60.0, "the operator's first Job")
    motley.wait(lambda: "Unschedulable" in weights(motley)[2], 15.0, "for its claim, as it says")
    (job,) = jobs(api)
    name = job["metadata"]["name"]
    assert motley.look().pods == {} and job["metadata"]["ownerReferences"][0]["name"] == "chat"

    # Its pod passes the restricted profile, and may write its progress and nothing else.
    pod = {"metadata": {"name": "p"}, "spec": job["spec"]["template"]["spec"]}
    spec = {k: v for k, v in pod["spec"].items() if not k.startswith("serviceAccount")}
    body = {**pod, "apiVersion": "v1", "kind": "Pod", "spec": spec}
    api.request("POST", path_of("Pod", RESTRICTED) + "?dryRun=All", body)
    account = Api(str(cluster.kubeconfig), ACCOUNT)
    try:
        progress = {"data": {"doneBytes": "4000000000", "totalBytes": "16000000000"}}
        account.patch("ConfigMap", NAMESPACE, name, progress)
        with pytest.raises(Refused, match="forbidden"):
            account.patch("ConfigMap", NAMESPACE, "chat-routing", progress)
        with pytest.raises(Refused, match="forbidden"):
            account.request("GET", path_of("ConfigMap", NAMESPACE, name))
    finally:
        account.close()

    for manifest in bound_claim(NAMESPACE, "models", "fetched-models"):
        api.apply(manifest)
    seen: set[str] = set()

    def is_there() -> bool:
        pods, (job,) = motley.look().pods, jobs(api)
        assert not pods or job["status"].get("succeeded") == 1
        status, reason, message = weights(motley)
        seen.add(f"{reason}: {message}")
        return status == "True"

    motley.wait(is_there, 90.0, "the weights are there")
    assert "Downloading: main: 25 % of 16.0 GB" in seen
    before = motley.settle(30.0)
    assert before.live()
    uid = jobs(api)[0]["metadata"]["uid"]
    motley.kill()
    motley.start()
    motley.wait(lambda: weights(motley)[0] == "True", 10.0, "still there")
    after = motley.settle(30.0)
    assert after.live().keys() == before.live().keys()
    assert [j["metadata"]["uid"] for j in jobs(api)] == [uid]

    # Nothing of it is left when the resource goes.
    api.delete(*PLACE)
    motley.wait(lambda: not jobs(api), 60.0, "the Job goes with its resource")


def test_a_job_whose_pod_the_server_refuses_says_so_in_the_servers_words(
    motley: Installation,
) -> None:
    metadata = {"name": "full", "namespace": RESTRICTED}
    spec = {"hard": {"pods": "0"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec}
    motley.api.apply(quota)
    place = ("ServingPool", RESTRICTED, "chat")
    motley.apply([{**POOL, "metadata": {"name": "chat", "namespace": RESTRICTED}}])
    said = (
        'main: the API server refuses the Job\'s pod: 403 Forbidden: pods "<pod>" is forbidden:'
        " exceeded quota: full"
    )
    motley.wait(
        lambda: (
            weights(motley, place)[1:2] == ("PodRefused",)
            and weights(motley, place)[2].startswith(said)
        ),
        150.0,
        "why the Job has no pod",
    )
    # With room nothing of it is refused, under the strictest profile either.
    motley.api.apply({**quota, "spec": {"hard": {"pods": "9"}}})
    motley.wait(lambda: weights(motley, place)[1] == "DownloadPending", 60.0, "nothing refuses it")
