"""Hands that should not have been there: on statuses, on our objects, on what is being rolled out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e import demo_operator
from e2e.cluster.faults import Fault
from e2e.demo_api import path_of
from e2e.demo_picture import Picture
from e2e.samples import pool
from e2e.trial import FULL, NEW_PODS, SETTLE_S, Trial

from motley_operator.connection import KINDS
from motley_operator.contests import FREE_TAKES
from motley_operator.testing.samples import CALIBRATION, cascade, job

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMESPACE_S = 90.0  # the namespace controller looks again at longer and longer intervals
TAKEN = ("ConfigMap", "Service", "Deployment")
Document = dict[str, Any]
TINY = {"id": "Qwen/Qwen2.5-1.5B-Instruct"}
STAGES = [
    {"name": "small", "model": TINY},
    {"name": "large", "model": {"id": "Qwen/Qwen3-8B"}},
]


def another_plan(status: Document) -> Document:
    """A plan that nobody made, for a spec that is not there yet."""
    groups = [{**group, "count": 100, "gpu": "abacus"} for group in status["plan"]["groups"]]
    plan = {**status["plan"], "hash": "junk", "dollarsPerHour": "0", "groups": groups}
    return {**status, "observedGeneration": 999, "plan": plan}


def no_plan(status: Document) -> Document:
    """A plan without a replica, and no word of when it was made."""
    plan = {**status["plan"], "hash": "junk", "groups": []}
    return {key: one for key, one in status.items() if key != "lastReplan"} | {"plan": plan}


def conditions_of_nobody(status: Document) -> Document:
    """Conditions of types that nobody writes, and those that are written turned round."""
    turned = {"True": "False", "False": "True", "Unknown": "True"}
    rows = [{**row, "status": turned[row["status"]]} for row in status["conditions"]]
    return {**status, "conditions": [*rows, {**rows[0], "type": "Nobody"}]}


def nothing(status: Document) -> Document:
    """What a restored resource has."""
    del status
    return {"observedGeneration": -1}


JUNK: tuple[Callable[[Document], Document], ...] = (
    another_plan,
    no_plan,
    conditions_of_nobody,
    nothing,
)


@pytest.mark.parametrize("when", ["while it runs", "while it is away"])
def test_a_status_corrupted_by_hand_is_put_right_and_moves_no_pod(trial: Trial, when: str) -> None:
    """A status wakes nobody, for it is our own output: the next cycle puts it right."""
    before = trial.settle()
    true = comparable(trial.status("edited"))
    for junk in JUNK if FULL or when == "while it runs" else JUNK[::3]:
        if when == "while it is away":
            trial.kill()
        document = trial.api.get("ServingPool", trial.namespace, "edited")
        assert document is not None
        document["status"] = junk(document["status"])
        path = path_of("ServingPool", trial.namespace, "edited", "status")
        trial.api.request("PUT", path, document)
        assert comparable(trial.status("edited")) != true
        if when == "while it is away":
            trial.start()
        else:
            asked = {"annotations": {"motley.dev/replan-requested-at": str(time.time())}}
            trial.api.patch("ServingPool", trial.namespace, "bystander", {"metadata": asked})
        trial.wait(
            lambda: comparable(trial.status("edited")) == true, SETTLE_S, f"{junk} is put right"
        )
        after = trial.settle()
        assert before.pods.keys() == after.pods.keys()


def comparable(status: Document) -> Document:
    """What a status says, but for when it was said and what only a person would miss."""
    conditions = {
        row["type"]: (row["status"], row["reason"])
        for row in status.get("conditions") or ()
        if row["type"] in ("Accepted", "Planned", "Ready", "Reconciling")
    }
    plan = status.get("plan") or {}
    return {
        "conditions": conditions,
        "observedGeneration": status.get("observedGeneration"),
        "groups": plan.get("groups"),
        "hash": plan.get("hash"),
    }


def test_a_pool_deleted_while_it_grows_leaves_nothing_behind(trial: Trial) -> None:
    """One of its pods is made when it is gone already: that was on its way."""
    before = trial.settle()
    late = Fault(NEW_PODS, ("POST",), skip=2, times=1, hold=threading.Event())
    assert late.hold is not None
    trial.proxy.faults[:] = [late]
    try:
        trial.edit("edited", 30)
        trial.wait(lambda: late.taken != "", 20.0, "the third new pod is asked for")
        trial.api.delete("ServingPool", trial.namespace, "edited")
        trial.wait(
            lambda: trial.api.get("ServingPool", trial.namespace, "edited") is None,
            SETTLE_S,
            "the pool is gone",
        )
    finally:
        late.hold.set()
    trial.wait(lambda: late.answered is not None, SETTLE_S, "the late pod")
    assert late.answered == 201
    trial.wait(lambda: is_gone(trial, "edited"), SETTLE_S, "nothing is left of it")
    time.sleep(2.0)
    assert is_gone(trial, "edited")
    assert trial.pods_of(before, "bystander") == trial.pods_of(trial.settle(), "bystander")


def test_a_pool_deleted_while_its_replicas_are_replaced_leaves_nothing_behind(
    trial: Trial,
) -> None:
    before = trial.settle()
    old = trial.pods_of(before, "edited")
    rolled = {"spec": {"engine": {"name": "vllm", "extraArgs": ["--max-num-seqs", "64"]}}}
    trial.api.patch("ServingPool", trial.namespace, "edited", rolled)

    def is_under_way() -> bool:
        now = trial.pods_of(trial.motley.look(), "edited")
        return bool(now - old and now & old)

    trial.wait(is_under_way, 30.0, "old and new pods at a time")
    trial.api.delete("ServingPool", trial.namespace, "edited")
    trial.wait(lambda: is_gone(trial, "edited"), SETTLE_S, "nothing is left of it")
    time.sleep(2.0)
    assert is_gone(trial, "edited")
    assert trial.pods_of(before, "bystander") == trial.pods_of(trial.settle(), "bystander")


@pytest.mark.parametrize("kind", ["ModelCascade", "RLJob"])
def test_others_deleted_while_they_start_leave_nothing_behind(trial: Trial, kind: str) -> None:
    before = trial.settle()
    made = in_namespace(
        trial, cascade(stages=STAGES) if kind == "ModelCascade" else job(model=TINY)
    )
    table = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"table.csv": CALIBRATION}}
    trial.api.apply(in_namespace(trial, {**table, "metadata": {"name": "table"}}))
    trial.apply(made)
    name = made["metadata"]["name"]
    trial.wait(lambda: bool(trial.pods_of(trial.motley.look(), name)), SETTLE_S, "its first pod")
    trial.api.delete(kind, trial.namespace, name)
    trial.wait(lambda: is_gone(trial, name), SETTLE_S, "nothing is left of it")
    time.sleep(2.0)
    assert is_gone(trial, name)
    assert trial.pods_of(before, "bystander") == trial.pods_of(trial.settle(), "bystander")


def is_gone(trial: Trial, name: str) -> bool:
    """Whether a resource has no pod any more, and nothing in the namespace is an orphan."""
    return not trial.orphans() and not trial.pods_of(trial.motley.look(), name)


def in_namespace(trial: Trial, document: Document) -> Document:
    return {**document, "metadata": {**document["metadata"], "namespace": trial.namespace}}


def test_a_namespace_deleted_while_it_serves_goes_and_the_others_serve_on(trial: Trial) -> None:
    other = trial.hands.namespace("doomed")
    trial.apply(pool("doomed", other, 6))
    before = trial.settle()
    assert any(pod.namespace == other for pod in before.live().values())
    trial.api.delete("Namespace", "", other)
    trial.wait(
        lambda: trial.api.get("Namespace", "", other) is None, NAMESPACE_S, "the namespace is gone"
    )
    after = trial.settle()
    assert not [pod for pod in after.pods.values() if pod.namespace == other]
    ours = {uid for uid, pod in before.live().items() if pod.namespace == trial.namespace}
    assert ours == after.live().keys()
    calm = time.time()
    time.sleep(3.0)
    assert trial.writes_of_operator(calm) == []


def test_a_second_manager_keeps_its_fields_and_loses_ours_without_a_fight(trial: Trial) -> None:
    """Its labels and annotations stay; a field of ours that it takes is taken back, once each."""
    trial.settle()
    things = [(kind, item["metadata"]["name"]) for kind in TAKEN for item in trial.owned(kind)]
    assert {kind for kind, _ in things} == set(TAKEN)
    began = time.time()
    for turn in range(10):
        for kind, name in things:
            meddle(trial, kind, name, {"metadata": {"annotations": {"gitops/turn": str(turn)}}})
        time.sleep(0.3)
    assert [one for one in trial.writes_of_operator(began) if one.resource != "servingpools"] == []

    began = time.time()
    for kind, name in things:
        meddle(trial, kind, name, stolen(kind))
    trial.wait(lambda: not any(is_stolen(trial, k, n) for k, n in things), SETTLE_S, "taken back")
    trial.settle()
    time.sleep(2.0)
    writes = [one for one in trial.writes_of_operator(began) if one.resource != "servingpools"]
    print(f"{len(things)} objects, {len(writes)} writes of the operator")
    assert 0 < len(writes) <= 2 * len(things)
    for kind, name in things:
        kept = read(trial, kind, name)["metadata"]
        assert kept["annotations"]["gitops/turn"] == "9" or kind == "ConfigMap"
        assert kept["labels"]["gitops/owner"] == "somebody"


def test_who_takes_a_field_again_and_again_is_named(trial: Trial) -> None:
    trial.settle()
    name = trial.owned("Deployment")[0]["metadata"]["name"]

    def told() -> list[str]:
        path = f"/api/v1/namespaces/{trial.namespace}/events"
        found = trial.api.request("GET", path)["items"]
        return [one["message"] for one in found if one["reason"] == "FieldTaken"]

    # What another process wrote last is no take yet, so one more may be free.
    for _ in range(FREE_TAKES + 2):
        if told():
            break
        meddle(trial, "Deployment", name, stolen("Deployment"))
        trial.wait(
            lambda: bool(told()) or not is_stolen(trial, "Deployment", name), SETTLE_S, "an answer"
        )
    assert told()[0].startswith(f"manager gitops writes spec.replicas of Deployment {name} again")
    trial.wait(lambda: not is_stolen(trial, "Deployment", name), SETTLE_S, "taken back")


def meddle(trial: Trial, kind: str, name: str, change: Document) -> None:
    """Applies a change as another field manager that takes what it wants."""
    version = "apps/v1" if kind == "Deployment" else "v1"
    metadata = {"name": name, "namespace": trial.namespace, **change.get("metadata", {})}
    document = {"apiVersion": version, "kind": kind, **change, "metadata": metadata}
    path = f"{KINDS[kind].path(trial.namespace, name)}?fieldManager=gitops&force=true"
    trial.api.request("PATCH", path, document, "application/apply-patch+yaml")


def stolen(kind: str) -> Document:
    """Fields that are ours, as another manager would have them, and a label of its own."""
    metadata = {
        "labels": {"gitops/owner": "somebody", "app.kubernetes.io/part-of": "stolen"},
        "annotations": {"gitops/turn": "9"},
    }
    if kind == "Service":
        return {"metadata": metadata, "spec": {"sessionAffinity": "ClientIP"}}
    if kind == "Deployment":
        return {"metadata": metadata, "spec": {"replicas": 7}}
    return {"metadata": metadata, "data": {"routing.json": "{}"}}


def is_stolen(trial: Trial, kind: str, name: str) -> bool:
    """Whether a field that the operator writes is still the other manager's."""
    found = read(trial, kind, name)
    if kind == "Deployment":
        return bool(found["spec"]["replicas"] == 7)
    if kind == "ConfigMap":
        return bool(found["data"].get("routing.json") == "{}")
    return False


def read(trial: Trial, kind: str, name: str) -> Document:
    return trial.api.request("GET", KINDS[kind].path(trial.namespace, name))


def identities(picture: Picture) -> dict[str, str]:
    """Names of live pods by UID."""
    return {uid: pod.name for uid, pod in picture.live().items()}


def test_an_operator_installed_anew_on_resources_without_status_moves_no_pod(
    trial: Trial,
) -> None:
    """Its namespace is deleted with the account and the lease; statuses are emptied meanwhile.

    So is the best place for a pool: the price of a node on which it runs is raised.
    """
    before = trial.settle()
    at = next(pod.node for pod in before.live().values() if pod.key.endswith("/edited"))
    trial.kill()
    trial.price(at, "100")
    trial.api.delete("Namespace", "", demo_operator.NAMESPACE)
    trial.wait(
        lambda: trial.api.get("Namespace", "", demo_operator.NAMESPACE) is None,
        NAMESPACE_S,
        "the operator's namespace is gone",
    )
    for name in ("edited", "bystander"):
        found = trial.api.get("ServingPool", trial.namespace, name)
        assert found is not None
        found.pop("status")
        path = path_of("ServingPool", trial.namespace, name, "status")
        trial.api.request("PUT", path, found)
        assert "plan" not in trial.status(name)
    trial.reinstall()
    trial.wait(
        lambda: bool(trial.status("edited").get("plan") and trial.status("bystander").get("plan")),
        SETTLE_S,
        "statuses are written anew",
    )
    after = trial.settle(calm_s=3.0)
    assert identities(before) == identities(after)
    trial.price(at, None)


@pytest.mark.parametrize("is_blind", [False, True], ids=["", "while the watch of pools is silent"])
def test_a_pool_restored_beside_the_pods_it_left_adopts_them(trial: Trial, is_blind: bool) -> None:
    """Deleted with --cascade=orphan, as a backup or a GitOps tool may, and applied again.

    Told by the watch of pods only, the operator gives nothing back to a pool that is on its way out.
    """
    before = trial.settle()
    path = path_of("ServingPool", trial.namespace, "edited")
    if is_blind:
        assert trial.proxy.freeze("servingpools.*watch=true")
    trial.api.request("DELETE", path, {"propagationPolicy": "Orphan"})
    trial.wait(
        lambda: trial.api.get("ServingPool", trial.namespace, "edited") is None,
        SETTLE_S,
        "the pool is gone",
    )
    time.sleep(2.0)
    assert identities(before) == identities(trial.motley.look())
    if is_blind:
        assert trial.proxy.cut("servingpools.*watch=true")
    trial.pool("edited", 6)
    after = trial.settle(calm_s=3.0)
    assert identities(before) == identities(after)
    assert trial.orphans() == []
