"""What no plan wants any more goes; and what is granted for it is needed.

Every right of the chart is used somewhere in the end-to-end tests (e2e/rights.py): here are those of
taking back what was made, and those that no request shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import demo_operator, rights
from e2e.cluster.nodes import make_nodes
from e2e.demo_api import Api, Refused, path_of
from e2e.fixtures import Cluster
from e2e.trial import SETTLE_S, Trial, pool
from e2e.volumes import bound_claim

from motley_operator.connection import ApiError

pytestmark = pytest.mark.e2e

Document = dict[str, Any]
GATEWAY = (
    "Deployment",
    "Service",
    "ConfigMap",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "PodDisruptionBudget",
)
ENDS = {"pod-complete.stage.kwok.x-k8s.io/delay": "1s"}  # a trainer that is done in a second


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Nodes, and an operator that makes network policies."""
    nodes = make_nodes("l40s", 2, prefix="left")
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as begun:
        demo_operator.stop(begun.motley.folder)
        begun.motley.grant("rules-network.yaml")
        begun.flags = ("--network-policies",)
        begun.start()
        yield begun


def none_of(trial: Trial, name: str, kinds: tuple[str, ...]) -> bool:
    return not any(trial.owned(kind, name) for kind in kinds)


def test_a_gateway_goes_where_nothing_was_approved_for_it(trial: Trial) -> None:
    """One that no node can serve has a gateway that says so; in Preview nothing is made unapproved."""
    placement = {"nodeSelector": {"no": "node"}}
    trial.apply(pool("nowhere", trial.namespace, 6, placement=placement))
    kinds = (*GATEWAY, "NetworkPolicy")
    trial.wait(lambda: all(trial.owned(k, "nowhere") for k in kinds), SETTLE_S, "its gateway")
    preview = {"spec": {"replan": {"mode": "Preview"}}}
    trial.api.patch("ServingPool", trial.namespace, "nowhere", preview)
    trial.wait(lambda: none_of(trial, "nowhere", kinds), SETTLE_S, "its gateway goes")
    trial.api.delete("ServingPool", trial.namespace, "nowhere")


def test_a_cache_given_up_takes_its_job_with_it(trial: Trial) -> None:
    """Its claim is never bound, so the Job waits until nobody wants it."""
    cache = {"persistentVolumeClaim": {"claimName": "no-such-claim"}}
    model = {"id": "Qwen/Qwen3-8B", "cache": cache}
    trial.apply(pool("cached", trial.namespace, 6, model=model))
    trial.wait(lambda: bool(trial.owned("Job", "cached")), SETTLE_S, "its Job")
    without = {"spec": {"model": {"cache": None}}}
    trial.api.patch("ServingPool", trial.namespace, "cached", without)
    trial.wait(lambda: not trial.owned("Job", "cached"), SETTLE_S, "the Job goes")
    trial.settle()


def job(namespace: str, annotations: Document) -> Document:
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "RLJob",
        "metadata": {"name": "short", "namespace": namespace},
        "spec": {
            "framework": {"name": "areal"},
            "model": {"id": "Qwen/Qwen2.5-1.5B-Instruct"},
            "algorithm": {"batchPrompts": 16, "maxNewTokens": 512, "steps": 10},
            "trainer": {"podTemplate": {"metadata": {"annotations": annotations}}},
            "storage": {"persistentVolumeClaim": {"claimName": "rl-shared"}},
            "ttlSecondsAfterFinished": 3,
        },
    }


def test_a_finished_job_leaves_nothing_and_goes_after_its_time(trial: Trial) -> None:
    kinds = ("ConfigMap", "Service", "PodDisruptionBudget", "NetworkPolicy")
    for manifest in bound_claim(trial.namespace, "rl-shared", "left-shared"):
        trial.api.apply(manifest)
    trial.apply(job(trial.namespace, ENDS))
    trial.wait(lambda: all(trial.owned(k, "short") for k in kinds), SETTLE_S, "its objects")
    seen: list[str] = []

    def is_gone() -> bool:
        found = trial.api.get("RLJob", trial.namespace, "short")
        if found is None:
            return True
        rows = (found.get("status") or {}).get("conditions") or ()
        complete = any(r["type"] == "Complete" and r["status"] == "True" for r in rows)
        if complete and none_of(trial, "short", kinds) and not seen:
            seen.append("objects gone before the job")
        return False

    trial.wait(is_gone, 2 * SETTLE_S, "it is deleted")
    trial.api.delete("PersistentVolume", "", "left-shared")
    assert seen, "its objects went with it, and not when it was done"
    trial.assert_unshaken()
    trial.assert_lawful()


class Account:
    """A service account with all the chart's rules but one right; its requests are dry runs."""

    def __init__(self, admin: Api, folder: Path, without: rights.Right | None) -> None:
        self.admin, name = admin, "motley-lacking"
        demo_operator.install_account(admin, name)
        rules = [
            rule
            for file in rights.ALWAYS
            for rule in yaml.safe_load((demo_operator.CHART_FILES / file).read_text())
        ]
        kept = [_without(rule, without) for rule in rules]
        metadata = {"name": name}
        version = "rbac.authorization.k8s.io/v1"
        admin.apply(
            {
                "apiVersion": version,
                "kind": "ClusterRole",
                "metadata": metadata,
                "rules": [rule for rules in kept for rule in rules],
            }
        )
        subject = {"kind": "ServiceAccount", "name": name, "namespace": demo_operator.NAMESPACE}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        admin.apply(
            {
                "apiVersion": version,
                "kind": "ClusterRoleBinding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": [subject],
            }
        )
        demo_operator.write_kubeconfig(admin, folder / "lacking.kubeconfig", name)
        self.api = Api(str(folder / "lacking.kubeconfig"))

    def end(self) -> None:
        self.api.close()
        self.admin.delete("ClusterRoleBinding", "", "motley-lacking")
        self.admin.delete("ClusterRole", "", "motley-lacking")


def _without(rule: Document, right: rights.Right | None) -> list[Document]:
    """The rule without one right, as rules of one resource each."""
    return [
        {**rule, "resources": [resource], "verbs": verbs}
        for resource in rule["resources"]
        if (
            verbs := [
                verb for verb in rule["verbs"] if (rule["apiGroups"][0], resource, verb) != right
            ]
        )
    ]


def reading_role(namespace: str) -> Document:
    """A Role such as a gateway's."""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}
    metadata = {"name": "reads", "namespace": namespace}
    version = "rbac.authorization.k8s.io/v1"
    return {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]}


SHOWN_BY_POLICIES = ("motley.dev", "pods", "make")  # tests/e2e/test_policies.py is refused without


@pytest.mark.parametrize("right", sorted(rights.LOOKED_UP - {SHOWN_BY_POLICIES}))
def test_what_no_request_shows_is_needed(trial: Trial, tmp_path: Path, right: rights.Right) -> None:
    body, path = reading_role(trial.namespace), path_of("Role", trial.namespace)
    for without in (None, right):
        account = Account(trial.api, tmp_path, without)

        def is_as_expected(account: Account = account, granted: bool = without is None) -> bool:
            try:
                account.api.request("POST", f"{path}?dryRun=All", body)
            except Refused as refusal:
                assert ApiError(refusal.status, "", str(refusal), None).lacks_right
                return not granted
            return granted

        try:
            trial.wait(is_as_expected, 15.0, f"an account without {without or 'nothing'}")
        finally:
            account.end()
