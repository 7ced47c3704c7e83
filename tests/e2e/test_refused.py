"""Pods that the real API server refuses: what runs goes on, and its pool's conditions say why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from e2e import samples
from e2e.cluster.nodes import SHAPES, make_nodes
from e2e.fixtures import Cluster, installation
from e2e.motley import Installation

pytestmark = pytest.mark.e2e

NAMESPACE = "refused"
PLACE = ("ServingPool", NAMESPACE, "chat")
PROFILE = "pod-security.kubernetes.io/enforce"


def pool(**spec: Any) -> dict[str, Any]:
    """One replica that fills the only node."""
    return samples.pool("chat", NAMESPACE, 2, gateway={"replicas": 1}, **spec)


def mounting(*volumes: str) -> dict[str, Any]:
    """The pool, with an engine that mounts `scratch` and a podTemplate that has these volumes."""
    engine = {"name": "engine", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    made = [{"name": name, "emptyDir": {}} for name in volumes]
    return pool(podTemplate={"spec": {"containers": [engine], "volumes": made}})


@pytest.fixture
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    nodes = make_nodes(replace(SHAPES["l40s"], gpu_count=1), prefix="single")
    folder = tmp_path_factory.mktemp("operator")
    with installation(cluster, folder, nodes, NAMESPACE) as installed:
        installed.start()
        yield installed


def namespace(**labels: str) -> dict[str, Any]:
    metadata = {"name": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def engines(motley: Installation) -> set[str]:
    """UIDs of the ready engine pods."""
    found = motley.look().pods.values()
    mine = [pod for pod in found if pod.key == "/".join(PLACE) and pod.ready and not pod.deleting]
    return {pod.uid for pod in mine}


def conditions(motley: Installation) -> dict[str, tuple[str, str]]:
    """(reason, message) of the conditions that are true, of the present spec."""
    found = motley.api.get(*PLACE) or {}
    status = found.get("status") or {}
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return {}
    rows = [c for c in status.get("conditions") or () if c["status"] == "True"]
    return {c["type"]: (c["reason"], c["message"]) for c in rows}


def complaints(motley: Installation) -> list[str]:
    """What events say of refused pods."""
    events = motley.api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
    return [e["message"] for e in events if e.get("reason") == "PodRefused"]


def until_refused(motley: Installation, words: str, running: set[str]) -> None:
    """Waits until the pool says so; what runs serves all the time."""

    def is_told() -> bool:
        assert engines(motley) == running
        said = conditions(motley).get("Stalled", ("", ""))
        return said[0] == "PodRefused" and words in said[1]

    motley.wait(is_told, 20.0, f"Stalled says {words}")
    assert "Ready" in conditions(motley)


def until_replaced(motley: Installation, running: set[str]) -> set[str]:
    """Waits until another pod serves, and nothing is stalled; its UID."""

    def is_replaced() -> bool:
        now = engines(motley)
        return len(now) == 1 and now.isdisjoint(running) and "Stalled" not in conditions(motley)

    motley.wait(is_replaced, 20.0, "another pod serves")
    return engines(motley)


def test_a_refused_pod_takes_nothing_down_and_what_is_mended_is_carried_out(
    motley: Installation,
) -> None:
    # A new pool: nothing makes way for its pods, so they are refused when they are made.
    motley.apply([mounting()])
    motley.wait(lambda: conditions(motley).get("Stalled", ("",))[0] == "PodRefused", 20.0, "said")
    rows = (motley.api.get(*PLACE) or {})["status"]["conditions"]
    (ready,) = [c for c in rows if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "PodRefused")
    motley.api.apply(pool())
    motley.wait(lambda: len(engines(motley)) == 1, 20.0, "the mended pool serves")
    assert "Stalled" not in conditions(motley)
    first = engines(motley)

    # A mount without its volume; the edit back, and the mended edit.
    motley.api.apply(mounting())
    until_refused(motley, '.name: Not found: "scratch"', first)
    assert "Not found" in complaints(motley)[0]
    motley.api.apply(pool())
    motley.wait(lambda: "Stalled" not in conditions(motley), 20.0, "the edit back is in force")
    assert engines(motley) == first
    motley.api.apply(mounting())
    until_refused(motley, "Not found", first)
    motley.api.apply(mounting("scratch"))
    second = until_replaced(motley, first)

    # Pod Security, set while it runs, and an edit that would make the engines anew.
    motley.api.apply(namespace(**{PROFILE: "restricted"}))
    motley.api.apply(pool(engine={"name": "vllm", "extraArgs": ["--seed=1"]}))
    until_refused(motley, 'violates PodSecurity "restricted', second)
    motley.api.apply(namespace(**{PROFILE: "privileged"}))
    motley.api.apply(pool(engine={"name": "vllm", "extraArgs": ["--seed=2"]}))
    third = until_replaced(motley, second)

    # A quota that the gateway and the engine fill: the old pod's end makes room for the new one.
    hard = {"hard": {"pods": "2"}}
    metadata = {"name": "full", "namespace": NAMESPACE}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard}
    motley.api.apply(quota)
    motley.api.apply(pool(engine={"name": "vllm", "extraArgs": ["--seed=3"]}))
    until_replaced(motley, third)
    assert not any("exceeded quota" in words for words in complaints(motley))
