"""An operator under the chart's rights for some namespaces: it serves these and leaves the others alone.

Nodes and pods are read of the whole cluster, for a pod of any namespace takes room on a node; where
that is not granted the operator says so, is not ready and does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from e2e import demo_operator
from e2e.checker import assert_lawful
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation
from e2e.tenants import Tenant, calm, gpus_by_node, judged_by_writes
from e2e.trial import pool

pytestmark = pytest.mark.e2e

MINE, ALSO, OTHER = "fenced-a", "fenced-b", "fenced-out"
SPACES = (MINE, ALSO, OTHER)
NODE = "fenced-1"
FENCED, BLIND = "motley-fenced", "motley-blind"
TAKEN = 5  # GPUs of the eight that somebody else's pod holds


@dataclass(frozen=True, slots=True)
class Fenced:
    """The cluster, and an operator for two of its three namespaces."""

    motley: Installation
    hands: Scenario
    operator: Tenant

    def status(self, namespace: str, name: str = "chat") -> dict[str, Any]:
        found = self.motley.api.get("ServingPool", namespace, name) or {}
        status: dict[str, Any] = found.get("status") or {}
        return status

    def is_ready(self, namespace: str, name: str = "chat") -> bool:
        found = self.motley.look().resources[f"ServingPool/{namespace}/{name}"]
        return found.is_true("Ready") and not found.is_true("Reconciling")


def holder(gpus: int) -> dict[str, Any]:
    """A pod of nobody's in the namespace that is out of the operator's sight."""
    limits = {"nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "holder", "namespace": OTHER},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "containers": [{"name": "c", "image": "i", "resources": {"limits": limits}}],
        },
    }


@pytest.fixture(scope="module")
def fenced(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fenced]:
    folder = tmp_path_factory.mktemp("operators")
    hands, motley = judged_by_writes(cluster, folder)
    api = motley.api
    operator = Tenant.make(
        api,
        FENCED,
        folder / "fenced",
        f"--namespace={MINE}",
        f"--namespace={ALSO}",
        "--leader-elect",
    )
    try:
        hands.add_nodes(make_nodes("l4", 1, prefix="fenced"))
        for name in SPACES:
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            api.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "default", "namespace": name},
                }
            )
        api.apply(holder(TAKEN))
        demo_operator.install_rbac(api, FENCED, (MINE, ALSO))
        motley.apply([pool("chat", name, 3) for name in SPACES])
        operator.start()
        yield Fenced(motley, hands, operator)
    finally:
        motley.clear()  # while the operator still runs
        operator.stop((MINE, ALSO))
        for name in SPACES:
            api.delete("Namespace", "", name)
        motley.stop()
        hands.close()


def test_it_serves_its_namespaces_beside_pods_of_others(fenced: Fenced) -> None:
    fenced.motley.wait(
        lambda: all(fenced.is_ready(name) for name in (MINE, ALSO)), 60.0, "both pools are Ready"
    )
    assert fenced.operator.probe("readyz") == (200, "ok\n")
    # More than the node has beside the pod of a namespace that it does not plan.
    change = {"spec": {"workload": {"requestsPerSecond": 40}}}
    fenced.motley.api.patch("ServingPool", MINE, "chat", change)

    def is_short() -> bool:
        rows = {c["type"]: c for c in fenced.status(MINE).get("conditions") or ()}
        return rows["Planned"]["status"] == "False"

    fenced.motley.wait(is_short, 30.0, "the pool says what it lacks")
    calm(fenced.hands, [fenced.operator], 4.0)
    assert gpus_by_node(fenced.motley.api, (MINE, ALSO)) == {NODE: 8 - TAKEN}
    assert all(pod.ready for pod in fenced.motley.look().live().values())
    records = [r for r in fenced.hands.event_log(whole=True) if r.namespace in (*SPACES, "")]
    assert_lawful(records, time.time())


def test_it_leaves_other_namespaces_alone_and_is_refused_nothing(fenced: Fenced) -> None:
    calm(fenced.hands, [fenced.operator], 4.0)
    written = fenced.operator.writes(fenced.hands)
    assert {one.namespace for one in written} == {MINE, ALSO}
    assert fenced.status(OTHER) == {"observedGeneration": -1}  # as it was when nobody had looked
    assert not [p for p in fenced.motley.look().pods.values() if p.namespace == OTHER]
    assert fenced.operator.refused(fenced.hands) == []


@pytest.mark.slow
def test_without_the_right_to_read_nodes_it_says_so_does_nothing_and_goes_on_once_it_has_it(
    fenced: Fenced,
) -> None:
    """The same namespaces, rights there, and none in the cluster as a whole."""
    fenced.motley.wait(
        lambda: fenced.operator.probe("readyz")[0] == 200, 30.0, "the first operator is ready"
    )
    demo_operator.stop(fenced.operator.folder)
    api = fenced.motley.api
    blind = Tenant.make(api, BLIND, fenced.operator.folder.parent / "blind", f"--namespace={ALSO}")
    try:
        demo_operator.grant(api, "motley-namespace", "rules-namespace.yaml", BLIND, (ALSO,))
        blind.start()
        fenced.motley.wait(
            lambda: "nodes" in blind.probe("readyz")[1], 30.0, "it says what it lacks"
        )
        change = {"spec": {"workload": {"requestsPerSecond": 4}}}
        api.patch("ServingPool", ALSO, "chat", change)
        time.sleep(5.0)
        status, said = blind.probe("readyz")
        assert status == 503
        lines = said.splitlines()
        for kind in ("nodes", "pods"):
            (line,) = [one for one in lines if one.startswith(f"{kind}: ")]
            assert "403 Forbidden" in line and "rules-cluster.yaml" in line
        assert "rules-cluster.yaml" in blind.log()
        assert blind.is_alive()
        assert blind.writes(fenced.hands) == []

        demo_operator.grant(api, "motley", "rules-cluster.yaml", BLIND)

        def is_planned() -> bool:
            found = api.get("ServingPool", ALSO, "chat") or {}
            seen = (found.get("status") or {}).get("observedGeneration")
            return bool(seen == found["metadata"]["generation"])

        fenced.motley.wait(is_planned, 60.0, "the edit is planned once nodes may be read")
        assert blind.probe("readyz") == (200, "ok\n")
        assert {one.namespace for one in blind.writes(fenced.hands)} <= {ALSO}
    finally:
        blind.stop((ALSO,))
        fenced.operator.start()
