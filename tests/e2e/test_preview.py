"""Preview on the real control plane: proposed, approved by who may, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml
from e2e import samples
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused
from e2e.fixtures import Cluster, installation
from e2e.motley import ROOT, Installation

pytestmark = pytest.mark.e2e

NAMESPACE = "previewed"
PLACE = ("ServingPool", NAMESPACE, "chat")
EDITOR, APPROVER = "edith", "april"  # both may edit pools, one of them may approve
SHIPPED = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole")
POOLS = f"/apis/motley.dev/v1alpha1/namespaces/{NAMESPACE}/servingpools"


def pool(rate: int) -> dict[str, Any]:
    return samples.pool("chat", NAMESPACE, rate, replan={"mode": "Preview"})


def role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io/v1"
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": group, "kind": "Role", "metadata": metadata, "rules": list(rules)}


def bound(kind: str, name: str, user: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{name}-{user}", "namespace": NAMESPACE},
        "roleRef": {"apiGroup": group, "kind": kind, "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


def shipped() -> list[dict[str, Any]]:
    """The policies, their bindings and the approvers' role, as the chart has them."""
    text = (ROOT / "charts" / "motley" / "install.yaml").read_text()
    return [
        document
        for document in yaml.safe_load_all(text)
        if document["kind"] in SHIPPED and "appro" in document["metadata"]["name"]
    ]


def install_approval(api: Api) -> None:
    """What is shipped, and two people."""
    assert len(shipped()) == 5  # two policies and their bindings
    for document in shipped():
        api.apply(document)
    edits = {
        "apiGroups": ["motley.dev"],
        "resources": ["servingpools"],
        "verbs": ["get", "list", "create", "patch", "update"],
    }
    api.apply(role("edits", edits))
    for user in (EDITOR, APPROVER):
        api.apply(bound("Role", "edits", user))
    api.apply(bound("ClusterRole", "motley-approver", APPROVER))


@pytest.fixture(scope="module")
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("operator")
    with installation(cluster, folder, make_nodes("l40s", 3), NAMESPACE) as installed:
        try:
            install_approval(installed.api)
            installed.start()
            yield installed
        finally:
            with suppress(Refused):
                for document in shipped():
                    installed.api.delete(document["kind"], "", document["metadata"]["name"])


@pytest.fixture
def people(cluster: Cluster, motley: Installation) -> Iterator[dict[str, Api]]:
    apis = {user: Api(str(cluster.kubeconfig), user) for user in (EDITOR, APPROVER)}
    yield apis
    for api in apis.values():
        api.close()


def status(motley: Installation) -> dict[str, Any]:
    found = motley.api.get(*PLACE) or {}
    return found.get("status") or {}


def waiting(motley: Installation) -> str:
    proposed = status(motley).get("proposedPlan") or {}
    return str(proposed.get("hash") or "")


def approval(motley: Installation) -> tuple[str, str]:
    rows = {c["type"]: c for c in status(motley).get("conditions") or ()}
    row = rows.get("Approved") or {}
    return str(row.get("status")), str(row.get("reason"))


def annotate(api: Api, digest: str) -> None:
    api.patch(*PLACE, {"metadata": {"annotations": {"motley.dev/approve": digest}}})


def test_a_plan_is_proposed_and_applied_once_somebody_who_may_approves_it(
    motley: Installation, people: dict[str, Api]
) -> None:
    motley.apply([pool(6)])
    motley.wait(lambda: bool(waiting(motley)), 15.0, "a first plan is proposed")
    time.sleep(1.0)
    assert motley.look().pods == {}
    first = waiting(motley)
    with pytest.raises(Refused, match="verb approve") as refused:
        annotate(people[EDITOR], first)
    assert refused.value.status == 403
    sneaky = pool(6)
    sneaky["metadata"] |= {"name": "sneaky", "annotations": {"motley.dev/approve": first}}
    with pytest.raises(Refused, match="verb approve"):
        people[EDITOR].apply(sneaky)
    with pytest.raises(Refused, match="verb approve"):
        spec = {"spec": {"replan": {"mode": "Auto"}}}
        people[EDITOR].patch(*PLACE, spec)
    assert motley.look().pods == {}
    annotate(people[APPROVER], first)
    motley.wait(lambda: approval(motley) == ("True", "Approved"), 10.0, "approved")
    before = motley.settle(40.0)
    assert before.live() and before.resources["/".join(PLACE)].plan_hash == first

    # An edit is anybody's; it moves nothing, and who edits need not know of the approval.
    people[EDITOR].patch(*PLACE, {"spec": {"workload": {"requestsPerSecond": 60}}})
    motley.wait(lambda: waiting(motley) not in ("", first), 15.0, "a second plan is proposed")
    time.sleep(1.0)
    assert motley.look().live().keys() == before.live().keys()
    second = waiting(motley)

    # A restart in between, and an approval of what is no longer proposed.
    motley.kill()
    motley.start()
    annotate(people[APPROVER], "0" * 20)
    motley.wait(lambda: approval(motley) == ("False", "StaleApproval"), 15.0, "refused")
    assert waiting(motley) == second
    assert motley.look().live().keys() == before.live().keys()
    with pytest.raises(Refused, match="verb approve"):
        annotate(people[EDITOR], second)

    # The annotation may be taken off by anybody: that approves nothing.
    people[EDITOR].patch(*PLACE, {"metadata": {"annotations": {"motley.dev/approve": None}}})
    annotate(people[APPROVER], second)
    motley.wait(lambda: approval(motley) == ("True", "Approved"), 10.0, "approved")
    after = motley.settle(40.0)
    assert after.resources["/".join(PLACE)].plan_hash == second
    assert before.live().keys() <= after.live().keys()
    assert len(after.live()) > len(before.live())
    found = motley.api.get(*PLACE)
    assert found is not None and found["spec"]["replan"] == {"mode": "Preview"}


def test_a_lost_node_is_repaired_without_anybodys_approval(
    motley: Installation, scenario: Scenario
) -> None:
    before = motley.settle(40.0)
    counts = before.by_node()
    lost = min(counts, key=lambda name: (counts[name], name))
    scenario.remove_node(lost)

    def is_repaired() -> bool:
        live = motley.look().live()
        return len(live) == len(before.live()) and all(
            p.node not in ("", lost) for p in live.values()
        )

    motley.wait(is_repaired, 20.0, "as many replicas as before")
    after = motley.settle(40.0)
    stayed = {uid for uid, pod in before.live().items() if pod.node != lost}
    assert stayed <= after.live().keys()
    assert waiting(motley) == "" or approval(motley)[1] == "AwaitingApproval"


def saying(mode: str | None, name: str = "plain", rate: int = 2) -> dict[str, Any]:
    """A pool that says a mode, or none."""
    made = pool(rate)
    made["metadata"]["name"] = name
    made["spec"]["replan"] = {"mode": mode} if mode else {}
    return made


def may_post(api: Api, document: dict[str, Any]) -> bool:
    """Whether the API server would take a new pool."""
    return _is_taken(lambda: api.request("POST", f"{POOLS}?dryRun=All", document))


def may_create(api: Api, mode: str | None) -> bool:
    """Whether the API server would take a new pool that says this mode."""
    return may_post(api, saying(mode, "newcomer"))


def may_turn(api: Api, mode: str | None) -> bool:
    """Whether the API server would take another mode, or none, for the pool `plain`."""
    change = {"spec": {"replan": {"mode": mode}, "gateway": {"replicas": 2}}}
    path, kind = f"{POOLS}/plain?dryRun=All", "application/merge-patch+json"
    return _is_taken(lambda: api.request("PATCH", path, change, kind))


def _is_taken(act: Callable[[], object]) -> bool:
    try:
        act()
    except Refused as error:
        assert error.status == 403 and "verb approve" in str(error), error
        return False
    return True


@pytest.fixture
def defaults(motley: Installation) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Makes a Fleet that says this of re-planning, to be taken away again."""

    def say(replan: dict[str, Any]) -> None:
        head = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet"}
        made = {**head, "metadata": {"name": "default"}, "spec": {"replan": replan}}
        motley.api.apply(made)

    yield say
    motley.api.delete("Fleet", "", "default")
    motley.api.delete("ServingPool", NAMESPACE, "plain")


def test_a_preview_that_is_the_fleets_default_is_left_only_by_who_may_approve(
    motley: Installation,
    people: dict[str, Api],
    defaults: Callable[[dict[str, Any]], None],
) -> None:
    edith, april = people[EDITOR], people[APPROVER]
    others, every = ("Auto", "Disabled"), (None, "Preview", "Auto", "Disabled")

    # No Fleet: Auto is the default, and approving is guarded all the same.
    assert motley.api.get("Fleet", "", "default") is None
    approved = saying(None, "newcomer")
    approved["metadata"]["annotations"] = {"motley.dev/approve": "0" * 20}
    motley.wait(lambda: not may_post(edith, approved), 15.0, "the policies are in force")
    assert [mode for mode in every if may_create(edith, mode)] == [*every]

    defaults({"mode": "Preview"})
    motley.wait(lambda: not may_create(edith, "Disabled"), 15.0, "the policy knows the Fleet")
    assert [mode for mode in every if may_create(edith, mode)] == [None, "Preview"]
    assert [mode for mode in every if may_create(april, mode)] == [*every]

    # What says no mode is in Preview by the default, and nobody but an approver takes it out.
    edith.request("POST", POOLS, saying(None))
    assert [mode for mode in every if may_turn(edith, mode)] == [None, "Preview"]
    assert [mode for mode in every if may_turn(april, mode)] == [*every]

    # Once it was let out, editing is anybody's.
    april.patch("ServingPool", NAMESPACE, "plain", {"spec": {"replan": {"mode": "Disabled"}}})
    assert [mode for mode in every if may_turn(edith, mode)] == [*every]
    april.patch("ServingPool", NAMESPACE, "plain", {"spec": {"replan": {"mode": None}}})
    assert not any(may_turn(edith, mode) for mode in others)

    # The default is the admin's, who may change it without the verb.
    for replan in ({"mode": "Auto"}, {"mode": "Preview"}, {"cooldown": "5m"}):
        defaults(replan)
        is_free = replan.get("mode") != "Preview"
        motley.wait(
            lambda free=is_free: may_turn(edith, "Auto") is free, 15.0, f"{replan} is known"
        )
