"""Two operators of different classes on one cluster: neither touches what is the other's.

Both run under the chart's roles with an account each. Who wrote what is read from the audit log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml
from e2e import demo_operator
from e2e.checker import assert_lawful
from e2e.cluster.audit import Record
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused
from e2e.demo_picture import Picture
from e2e.fixtures import Cluster
from e2e.motley import ROOT, Installation
from e2e.tenants import Tenant, calm, gpus_by_node, judged_by_writes
from e2e.trial import pool

pytestmark = pytest.mark.e2e

SPACE, BLUE = "classes", "motley-blue"
CLASS, REPLICA = "motley.dev/class", "motley.dev/replica"
PLAIN_POOL, BLUE_POOL = f"ServingPool/{SPACE}/plain", f"ServingPool/{SPACE}/blue"
ASIDE = "aside-1"
REST_S = 2.5  # longer than either takes to answer the other's writes
FEW, MORE, TOO_MUCH = 3, 8, 160  # requests a second: of sixteen GPUs 2, 6, and more than there are
GPUS_OF_FEW = 2


def of_class(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    metadata = {**manifest["metadata"], "annotations": {CLASS: name}}
    return {**manifest, "metadata": metadata}


def policy(account: str) -> list[dict[str, Any]]:
    """The policy of pods and its binding, as the chart's release of that account brings them."""
    text = (ROOT / "charts" / "motley" / "install.yaml").read_text()
    theirs = f"serviceaccount:{demo_operator.NAMESPACE}:{demo_operator.ACCOUNT}'"
    assert theirs in text
    text = text.replace(theirs, f"serviceaccount:{demo_operator.NAMESPACE}:{account}'")
    found = [d for d in yaml.safe_load_all(text) if d and d["metadata"]["name"] == "motley-pods"]
    assert len(found) == 2
    for document in found:
        document["metadata"]["name"] = f"pods-of-{account}"
        if "policyName" in document["spec"]:
            document["spec"]["policyName"] = f"pods-of-{account}"
    return found


@dataclass(frozen=True, slots=True)
class Two:
    """The cluster with both operators."""

    motley: Installation
    hands: Scenario
    plain: Tenant
    blue: Tenant

    def status(self, name: str) -> dict[str, Any]:
        found = self.motley.api.get("ServingPool", SPACE, name) or {}
        status: dict[str, Any] = found.get("status") or {}
        return status

    def settled(self) -> Picture:
        """Once everything is Ready and neither operator writes any more."""
        self.motley.settle(90.0, 1.0)
        calm(self.hands, (self.plain, self.blue), REST_S)
        return self.motley.look()

    def edit(self, name: str, rate: float) -> None:
        change = {"spec": {"workload": {"requestsPerSecond": rate}}}
        self.motley.api.patch("ServingPool", SPACE, name, change)

    def records(self) -> list[Record]:
        every = self.hands.event_log(whole=True)
        return [one for one in every if one.namespace in (SPACE, "")]


@pytest.fixture(scope="module")
def two(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("operators")
    hands, motley = judged_by_writes(cluster, folder)
    api = motley.api
    demo_operator.install_rbac(api, BLUE)
    plain = Tenant.make(api, demo_operator.ACCOUNT, folder / "plain", "--leader-elect")
    blue = Tenant.make(api, BLUE, folder / "blue", "--leader-elect", "--class=blue")
    try:
        (aside,) = make_nodes("l4", prefix="aside")
        aside["metadata"]["labels"]["motley.dev/exclude"] = "true"
        hands.add_nodes([*make_nodes("l4", 2, prefix="shared"), aside])
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        fleet = {
            "apiVersion": "motley.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "default"},
        }
        motley.apply([fleet | {"spec": {}}])
        motley.apply([pool("plain", SPACE, FEW), of_class(pool("blue", SPACE, FEW), "blue")])
        both = Two(motley, hands, plain, blue)
        plain.start()
        blue.start()
        both.settled()
        yield both
    finally:
        motley.clear()  # while the operators still run
        plain.stop()
        blue.stop()
        motley.stop()
        hands.close()


def names_of(records: list[Record]) -> Counter[str]:
    """How many writes were about which pool, or about another object, by its first word."""
    return Counter(one.name.partition("-")[0] for one in records)


def test_each_plans_its_own_class_and_writes_nothing_of_the_other(two: Two) -> None:
    there = two.motley.look()
    assert all(one.is_true("Ready") for one in there.resources.values())
    # `default` is the Fleet, which has no class, and so is told of by the operator without one.
    own = {"plain", "plain.gateway"}
    assert set(names_of(two.plain.writes(two.hands))) == own | {"default"}
    assert set(names_of(two.blue.writes(two.hands))) == {"blue", "blue.gateway"}
    assert two.blue.refused(two.hands) == []
    kept = two.motley.api.get("Lease", demo_operator.NAMESPACE, "motley-blue")
    assert kept is not None and kept["spec"]["holderIdentity"]


def test_the_others_gpus_are_foreign_and_none_is_taken_twice(two: Two) -> None:
    before = two.settled()
    theirs = {uid for uid, pod in before.live().items() if pod.key == BLUE_POOL}
    assert theirs
    two.edit("plain", TOO_MUCH)

    def is_short() -> bool:
        rows = {c["type"]: c for c in two.status("plain").get("conditions") or ()}
        is_new = two.status("plain")["observedGeneration"] == _generation(two, "plain")
        return is_new and rows["Planned"]["status"] == "False"

    two.motley.wait(is_short, 30.0, "the plain pool says what it lacks")
    calm(two.hands, (two.plain, two.blue), REST_S)
    full = two.motley.look()
    assert theirs <= full.live().keys()  # nobody of the other's goes
    assert gpus_by_node(two.motley.api, (SPACE,)) == {"shared-1": 8, "shared-2": 8}
    assert all(pod.ready for pod in full.live().values())
    rows = (two.motley.api.get("Fleet", "", "default") or {})["status"]["inventory"]
    used, foreign = (sum(row[name] for row in rows) for name in ("gpusUsed", "gpusForeign"))
    assert (used, foreign) == (16 - GPUS_OF_FEW, GPUS_OF_FEW)
    assert_lawful(two.records(), time.time())

    # What one gives up the other may have.
    two.edit("plain", FEW)
    two.edit("blue", MORE)
    grown = two.settled()
    assert sum(pod.key == BLUE_POOL for pod in grown.live().values()) > len(theirs)
    assert_lawful(two.records(), time.time())
    two.edit("blue", FEW)
    two.settled()


def _generation(two: Two, name: str) -> int:
    found = two.motley.api.get("ServingPool", SPACE, name)
    assert found is not None
    return int(found["metadata"]["generation"])


def unpinned(record: Record) -> Record:
    """A pod that is nowhere until it is bound: two may be pinned to a GPU that one of them gets."""
    spec = {k: v for k, v in (record.object.get("spec") or {}).items() if k != "affinity"}
    is_pod = record.resource == "pods" and "spec" in record.object
    return replace(record, object={**record.object, "spec": spec}) if is_pod else record


@pytest.mark.slow
def test_both_growing_at_once_end_with_each_gpu_held_once(two: Two) -> None:
    """They may reach for the same GPU: the scheduler gives it to one, and the other finds another."""
    two.settled()
    two.edit("plain", MORE)
    two.edit("blue", MORE)
    there = two.settled()
    assert all(pod.ready for pod in there.live().values())
    assert all(one.is_true("Planned") for one in there.resources.values())
    assert max(gpus_by_node(two.motley.api, (SPACE,)).values()) <= 8
    assert_lawful([unpinned(one) for one in two.records()], time.time())
    for name in ("plain", "blue"):
        two.edit(name, FEW)
    two.settled()


@pytest.mark.slow
def test_at_rest_neither_answers_the_other(two: Two) -> None:
    """Both read the Fleet, whose status one of them writes."""
    two.settled()
    before = [len(one.writes(two.hands)) for one in (two.plain, two.blue)]
    time.sleep(4 * REST_S)
    assert [len(one.writes(two.hands)) for one in (two.plain, two.blue)] == before


def test_a_node_that_is_left_out_is_left_out_by_both(two: Two) -> None:
    """Though one of them lacked GPUs; by the gateways, too, for which the scheduler chooses."""
    written = [one.object for one in two.records() if one.resource == "pods"]
    pods = [each for each in written if "spec" in each]
    assert any(REPLICA not in (pod["metadata"].get("labels") or {}) for pod in pods)
    nodes = {pod["spec"].get("nodeName") for pod in pods}
    assert {"shared-1", "shared-2"} <= nodes and ASIDE not in nodes


@pytest.mark.slow
def test_a_pool_whose_class_changes_changes_hands_and_keeps_its_pods(two: Two) -> None:
    before = two.settled()
    two.motley.api.patch(
        "ServingPool", SPACE, "plain", {"metadata": {"annotations": {CLASS: "blue"}}}
    )
    two.edit("plain", FEW + 4)
    after = two.settled()
    mine = {uid for uid, pod in before.live().items() if pod.key == PLAIN_POOL}
    assert mine <= after.live().keys()
    assert "plain" in names_of(two.blue.writes(two.hands))
    mark = len(two.plain.writes(two.hands))
    two.edit("plain", FEW)
    two.settled()
    assert set(names_of(two.plain.writes(two.hands)[mark:])) <= {"default"}
    told = (two.motley.api.get("Fleet", "", "default") or {})["status"]
    assert "dollarsPerHourByNamespace" not in told  # it has no resource any more
    assert " failed: " not in two.plain.log() + two.blue.log()
    two.motley.api.patch(
        "ServingPool", SPACE, "plain", {"metadata": {"annotations": {CLASS: None}}}
    )
    two.settled()


def test_the_pod_policy_of_one_release_lets_the_others_operator_through(
    two: Two, cluster: Cluster
) -> None:
    api, labels = two.motley.api, {"motley.dev/resource": "plain"}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "metadata": {"name": "podders", "namespace": SPACE}}
    api.apply({**role, "kind": "Role", "rules": rules})
    subjects = [{"apiGroup": group, "kind": "User", "name": "mallory"}]
    ref = {"apiGroup": group, "kind": "Role", "name": "podders"}
    api.apply({**role, "kind": "RoleBinding", "roleRef": ref, "subjects": subjects})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    path = f"/api/v1/namespaces/{SPACE}/pods?dryRun=All"
    for account in (demo_operator.ACCOUNT, BLUE):
        documents = policy(account)
        mallory = Api(str(cluster.kubeconfig), "mallory")
        try:
            for document in documents:
                api.apply(document)

            def is_refused(mallory: Api = mallory, account: str = account) -> bool:
                try:
                    mallory.request("POST", path, pod)
                except Refused as refusal:
                    return f"pods-of-{account}" in str(refusal)
                return False

            two.motley.wait(is_refused, 60.0, f"the policy of {account} is in force")
            for one in (two.plain, two.blue):
                operator = Api(str(one.folder / "operator.kubeconfig"))
                operator.request("POST", path, pod)
                operator.close()
        finally:
            mallory.close()
            for document in documents:
                api.delete(document["kind"], "", document["metadata"]["name"])
