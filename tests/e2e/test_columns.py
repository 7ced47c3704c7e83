"""What `kubectl get` shows, on the real API server: every column has a value once it is known."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster import binaries
from e2e.fixtures import Cluster
from e2e.motley import Installation

from motley_operator import changes, manifests, status, translate
from motley_operator.api import KINDS
from motley_operator.settings import Settings
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_planner.catalog import load_catalog

pytestmark = pytest.mark.e2e

SPACE = "columns"
Document = dict[str, Any]


def reported() -> list[Document]:
    """A pool, a cascade, a job and the Fleet with statuses as the operator writes them."""
    world = World().add_node(*(gpu_node(f"h{i}") for i in range(4)))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    frame = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet", "spec": {}}
    world.fleet = {**frame, "metadata": {"name": "default", "uid": "f", "generation": 1}}
    large = replica("large", model="Qwen/Qwen3-32B", nodes=("h1",))
    trainer = replica("trainer", engine="fsdp", tensor_parallel=4, nodes=("h3",))
    rollouts = [replica("rollout", ordinal=i, engine="sglang", nodes=("h2",)) for i in range(2)]
    plan = plan_of(
        slice_of(world.add(pool()), [replica()]),
        slice_of(world.add(cascade()), [replica("small", nodes=("h1",)), large]),
        slice_of(world.add(job()), [trainer, *rollouts]),
    )
    catalog, settings = load_catalog(), Settings()
    for _ in range(2):
        facts = world.facts()
        translation = translate.translate(facts, catalog, settings)
        wanted = manifests.build(plan, translation, facts, catalog, settings)
        world.apply(changes.changes(wanted, facts, plan))
        world.settle()
        world.apply(status.statuses(plan, translation, world.facts()))
    return [*world.documents.values(), world.fleet]


def row(kubeconfig: Path, plural: str, name: str) -> dict[str, str]:
    """One object's line of `kubectl get -o wide`, by column."""
    folder = binaries.find()
    kubectl = str(folder / "kubectl") if folder else "kubectl"
    argv = [kubectl, f"--kubeconfig={kubeconfig}", "get", plural, name, "-o", "wide", "-n", SPACE]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    head, line = shown.splitlines()
    starts = [i for i, c in enumerate(head) if c != " " and (i == 0 or head[i - 1] == " ")]
    ends = [*starts[1:], None]
    return {head[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_every_column_shows_what_it_promises(cluster: Cluster, tmp_path: Path) -> None:
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    api = installed.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    rows: dict[str, dict[str, str]] = {}
    try:
        for document in reported():
            kind, name = document["kind"], document["metadata"]["name"]
            namespace = "" if kind == "Fleet" else SPACE
            metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
            bare = {k: v for k, v in document.items() if k != "status"}
            installed.apply([{**bare, "metadata": metadata}])
            path = f"{_path(kind, namespace, name)}/status"
            change = {"status": document["status"]}
            api.request("PATCH", path, change, "application/merge-patch+json")
            rows[kind] = row(cluster.kubeconfig, KINDS[kind].names.crd_name, name)
    finally:
        installed.stop()
    for kind, shown in rows.items():
        assert shown.pop("PROPOSED", "") == ""  # no plan waits
        assert "" not in shown.values() and "<none>" not in shown.values(), (kind, shown)
        assert shown["READY"] == "True", (kind, shown)
    first, last = rows["ModelCascade"]["FIRST"], rows["ModelCascade"]["LAST"]
    assert (first, last) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-32B")
    assert rows["ServingPool"]["ADDRESS"] == "http://chat-gateway.team-a.svc:8000"
    assert rows["ServingPool"]["PLANNED"] == "Planned"


def _path(kind: str, namespace: str, name: str) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/motley.dev/v1alpha1{scope}/{KINDS[kind].names.plural}/{name}"
