"""The chart renders, grants what the operator does and no more, and carries the CRDs."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e import helm
from e2e.chart import CHART, Document, documents, render, rendered, shipped
from e2e.helm import needs_helm

from motley_operator.settings import Settings, add_flags, from_args

ROOT = Path(__file__).parent.parent.parent


def rules() -> list[dict[str, Any]]:
    """Everything the operator may do."""
    parts = ("cluster", "namespace", "events", "leader")
    files = [f"rules-{part}.yaml" for part in parts]
    return [r for name in files for r in yaml.safe_load((CHART / "files" / name).read_text())]


def allowed(verb: str, group: str, resource: str) -> bool:
    """Whether the operator's own rules allow it somewhere."""
    return any(
        verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
        for rule in rules()
    )


def test_no_rule_has_a_wildcard_and_none_reads_secrets() -> None:
    for rule in rules():
        assert not any("*" in rule[part] for part in ("apiGroups", "resources", "verbs")), rule
        assert "secrets" not in rule["resources"]
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


# What the rooms `facts` and `apply` send, kind by kind. An apply that makes an object asks for
# `create` as well. tests/e2e compares it with the API server's audit log (e2e/rights.py).
USES = [
    *[(verb, "", "nodes") for verb in ("list", "watch")],
    *[(verb, "", "pods") for verb in ("list", "watch", "create", "delete", "patch")],
    *[
        (verb, "motley.dev", resource)
        for verb in ("list", "watch")
        for resource in ("modelcascades", "servingpools", "rljobs", "fleets")
    ],
    *[
        ("patch", "motley.dev", f"{resource}/status")
        for resource in ("modelcascades", "servingpools", "rljobs", "fleets")
    ],
    *[
        (verb, group, resource)
        for verb in ("list", "watch", "create", "patch", "delete")
        for group, resource in (
            ("", "services"),
            ("", "configmaps"),
            ("", "serviceaccounts"),
            ("apps", "deployments"),
            ("batch", "jobs"),
            ("policy", "poddisruptionbudgets"),
            ("rbac.authorization.k8s.io", "roles"),
            ("rbac.authorization.k8s.io", "rolebindings"),
        )
    ],
    *[(verb, "scheduling.k8s.io", "priorityclasses") for verb in ("list", "watch")],
    *[(verb, "resource.k8s.io", "resourceslices") for verb in ("list", "watch")],
    *[(verb, "", what) for verb in ("list", "watch") for what in ("resourcequotas", "limitranges")],
    *[(verb, "", "events") for verb in ("create", "get", "patch")],
    *[(verb, "coordination.k8s.io", "leases") for verb in ("get", "create", "update")],
    ("delete", "motley.dev", "rljobs"),
]


# Granted, and sent by nobody of `facts` and `apply`.
BESIDES = [
    # kopf looks which kinds there are.
    *[(v, "apiextensions.k8s.io", "customresourcedefinitions") for v in ("list", "watch")],
    # Asked for by the admission policy of another release, whose operator is not ours.
    ("make", "motley.dev", "pods"),
    # In the Role that each gateway is given: nobody may give what he has not.
    ("get", "", "configmaps"),
]


def test_nothing_is_granted_that_is_not_used() -> None:
    granted = {
        (verb, group, resource)
        for rule in rules()
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {*USES, *BESIDES}


@pytest.mark.parametrize(("verb", "group", "resource"), USES)
def test_the_operator_may_do_what_it_does(verb: str, group: str, resource: str) -> None:
    assert allowed(verb, group, resource)


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("delete", "", "nodes"),
        ("patch", "", "nodes"),
        ("get", "", "secrets"),
        ("create", "rbac.authorization.k8s.io", "clusterroles"),
        ("patch", "motley.dev", "servingpools"),
        ("delete", "motley.dev", "servingpools"),
        ("patch", "motley.dev", "rljobs"),
        ("create", "apiextensions.k8s.io", "customresourcedefinitions"),
        *[("approve", "motley.dev", kind) for kind in ("modelcascades", "servingpools", "rljobs")],
        ("update", "motley.dev", "servingpools"),
        ("patch", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ],
)
def test_the_operator_may_not_do_what_it_never_does(verb: str, group: str, resource: str) -> None:
    assert not allowed(verb, group, resource)


def test_a_gateways_role_grants_nothing_that_the_operator_lacks() -> None:
    # Else the API server would refuse to let the operator create that Role.
    for verb in ("get", "list", "watch"):
        assert allowed(verb, "", "configmaps")


def test_the_charts_crds_are_the_generated_ones() -> None:
    inside = {path.name: path.read_bytes() for path in (CHART / "files" / "crds").glob("*.yaml")}
    generated = {path.name: path.read_bytes() for path in (ROOT / "crds").glob("*.yaml")}
    assert inside == generated
    assert len(generated) == 4


def values() -> dict[str, Any]:
    """The chart's default values."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def schema() -> dict[str, Any]:
    """The schema of the values."""
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return found


def test_the_default_values_fit_their_schema_and_every_value_has_one() -> None:
    jsonschema.validate(values(), schema())
    assert set(values()) == set(schema()["properties"]) - {"global"}


def described(node: dict[str, Any], path: str = "") -> dict[str, str]:
    """The description of every property below, by its path."""
    found: dict[str, str] = {}
    for name, inner in node.get("properties", {}).items():
        found[f"{path}{name}"] = inner.get("description", "")
        found |= described(inner, f"{path}{name}.")
        found |= described(inner.get("items", {}), f"{path}{name}.")
    return found


def test_every_value_is_described_in_sentences_of_its_own_and_with_its_unit() -> None:
    found = described(schema())
    assert len(found) >= 55
    assert len(set(found.values())) == len(found)
    for path, text in found.items():
        assert len(text) > 15 and text.endswith("."), path
        assert not path.endswith("Seconds") or "econds" in text, path


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 9},
        {"namespaces": ["Team A"]},
        {"operator": {"logLevel": "chatty"}},
        {"operater": {}},
        {"metrics": {"port": 80}},
    ],
    ids=["two operators", "no namespace name", "no log level", "a typing error", "a root port"],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values() | wrong, schema())


@needs_helm
def test_the_plain_manifest_is_what_the_chart_renders() -> None:
    assert shipped() == plain(rendered()), "write it anew with `make chart`"


def test_the_plain_manifest_has_the_present_crds_and_rules() -> None:
    found = {(d["kind"], d["metadata"]["name"]): d for d in shipped()}
    for path in (ROOT / "crds").glob("*.yaml"):
        (crd,) = documents(path.read_text())
        twin = found["CustomResourceDefinition", crd["metadata"]["name"]]
        assert twin["spec"] == crd["spec"], "write it anew with `make chart`"
    roles = (
        ("ClusterRole", "motley"),
        ("ClusterRole", "motley-namespace"),
        ("Role", "motley-events"),
        ("Role", "motley-leader"),
    )
    inside = [rule for role in roles for rule in found[role]["rules"]]
    assert inside == rules(), "write it anew with `make chart`"


def test_approving_is_a_right_of_its_own_that_no_shipped_role_but_the_approvers_has() -> None:
    found = shipped()
    roles = {d["metadata"]["name"]: d for d in found if d["kind"] in ("Role", "ClusterRole")}
    may = {n for n, d in roles.items() for r in d["rules"] if "approve" in r["verbs"]}
    assert may == {"motley-approver"}
    (rule,) = roles["motley-approver"]["rules"]
    assert rule["verbs"] == ["approve"]
    assert not any(
        name.startswith("rbac") for name in roles["motley-approver"]["metadata"]["labels"]
    )
    bound = {d["roleRef"]["name"] for d in found if d["kind"].endswith("RoleBinding")}
    assert "motley-approver" not in bound


def by_name(kind: str) -> dict[str, Document]:
    """Objects of a kind in the plain manifest, by name."""
    return {d["metadata"]["name"]: d for d in shipped(kind)}


@pytest.mark.parametrize(
    "name",
    [
        "motley-approval",
        "motley-approval-default",
        "motley-pod-templates",
        "motley-pods",
        "motley-workloads",
    ],
)
def test_an_admission_policy_is_bound_denies_and_fails_closed(name: str) -> None:
    policy = by_name("ValidatingAdmissionPolicy")[name]["spec"]
    binding = by_name("ValidatingAdmissionPolicyBinding")[name]["spec"]
    assert policy["failurePolicy"] == "Fail"
    assert (binding["policyName"], binding["validationActions"]) == (name, ["Deny"])
    if name == "motley-workloads":
        # As below: what has no such template is nothing to it.
        (condition,) = policy["matchConditions"]
        assert "'motley.dev/resource' in" in condition["expression"]
        return
    (rule,) = policy["matchConstraints"]["resourceRules"]
    if name == "motley-pods":
        assert rule["resources"] == ["pods"]
        # Fail closed must not mean that nobody can make pods when something is wrong with Motley's.
        (selected,) = policy["matchConstraints"]["objectSelector"]["matchExpressions"]
        assert selected == {"key": "motley.dev/resource", "operator": "Exists"}
    else:
        assert set(rule["resources"]) == {"modelcascades", "servingpools", "rljobs"}


def test_only_the_policy_of_the_fleets_default_reads_a_fleet_and_does_nothing_without_one() -> None:
    policies = by_name("ValidatingAdmissionPolicy")
    reading = {name for name, policy in policies.items() if "paramKind" in policy["spec"]}
    assert reading == {"motley-approval-default"}  # what judges without a Fleet may not be in there
    (name,) = reading
    assert policies[name]["spec"]["paramKind"] == {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
    }
    binding = by_name("ValidatingAdmissionPolicyBinding")[name]["spec"]
    assert binding["paramRef"] == {"name": "default", "parameterNotFoundAction": "Allow"}


@needs_helm
def test_each_policy_has_a_switch_of_its_own() -> None:
    def policies(*arguments: str) -> set[str]:
        found = rendered(*(f"--set={a}" for a in arguments))
        return {d["metadata"]["name"] for d in found if d["kind"].startswith("ValidatingAdm")}

    every = policies()
    for switch, names in (
        ("approval.enforce", {"motley-approval", "motley-approval-default"}),
        ("admission.podTemplates", {"motley-pod-templates"}),
        ("admission.pods", {"motley-pods", "motley-workloads"}),
    ):
        assert every - policies(f"{switch}=false") == names


@needs_helm
@pytest.mark.parametrize(
    ("setting", "role", "more"),
    [
        (
            "integrations.provisioningRequests=true",
            "motley-namespace",
            {"provisioningrequests", "podtemplates"},
        ),
        ("networkPolicy.engines=true", "motley-namespace", {"networkpolicies"}),
        ("namespaces={team-a}", "motley", {"namespaces"}),
    ],
)
def test_rights_that_only_a_switch_needs_come_with_it(
    setting: str, role: str, more: set[str]
) -> None:
    def may(*arguments: str) -> set[str]:
        roles = [d for d in rendered(*arguments) if d["kind"] == "ClusterRole"]
        rules = next(r["rules"] for r in roles if r["metadata"]["name"] == role)
        return {name for rule in rules for name in rule["resources"]}

    assert may("--set", setting) - may() == more


def plain(documents: tuple[Document, ...]) -> tuple[Document, ...]:
    """The objects with their namespace first, as `make chart` writes them."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "motley-system"}}
    return (namespace, *documents)


@needs_helm
def test_helm_lint_finds_nothing() -> None:
    done = helm.run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@needs_helm
def test_the_operator_runs_without_rights_on_its_machine() -> None:
    deployment = next(d for d in rendered() if d["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "--leader-elect" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_kubelet_asks_whether_the_operator_is_alive_and_whether_it_is_ready() -> None:
    from motley_operator.health import LIVE, READY

    deployment = by_name("Deployment")["motley"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--health-port={ports['health']}" in container["args"]
    for probe, path in (("livenessProbe", LIVE), ("readinessProbe", READY)):
        assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    # Nothing old goes before something new has a whole view; and who has none is scraped all the same.
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert by_name("Service")["motley-metrics"]["spec"]["publishNotReadyAddresses"] is True


def from_args_of(arguments: list[str]) -> Settings:
    """The settings of an operator that is started with these."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return from_args(parser.parse_args(arguments), {})


@needs_helm
def test_the_operators_flags_are_flags_that_the_command_has() -> None:
    arguments = ("--set", "namespaces={team-a,research},operator.resourceClass=blue")
    deployment = next(d for d in rendered(*arguments) if d["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = from_args_of(container["args"])
    assert settings.namespaces == ("team-a", "research")
    assert settings.resource_class == "blue"
    assert settings.health_port == container["ports"][1]["containerPort"]


@needs_helm
def test_the_port_of_health_is_refused_for_metrics_by_its_field() -> None:
    wrong = render("--set=metrics.port=8081")
    assert wrong.returncode != 0
    assert "metrics.port: 8081 is the port of the operator's health" in wrong.stderr


@needs_helm
def test_several_operators_are_spread_over_nodes_and_one_is_not() -> None:
    def constraints(replicas: int) -> list[dict[str, Any]]:
        found = rendered(f"--set=replicas={replicas}")
        (deployment,) = (d for d in found if d["kind"] == "Deployment")
        template = deployment["spec"]["template"]
        for each in (spread := template["spec"].get("topologySpreadConstraints", [])):
            assert (
                each["labelSelector"]["matchLabels"].items()
                <= template["metadata"]["labels"].items()
            )
        return list(spread)

    assert constraints(1) == []
    (one,) = constraints(3)
    assert (one["topologyKey"], one["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname",
        "ScheduleAnyway",
    )


@needs_helm
def test_a_registry_of_ones_own_holds_for_operator_gateways_and_the_catalog() -> None:
    arguments = ("images.registry=mirror.example:5000/hub", "images.pullSecrets={mirror}")
    found = rendered(*(f"--set={a}" for a in arguments))
    (deployment,) = (d for d in found if d["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = from_args_of(container["args"])
    assert settings.image_registry == "mirror.example:5000/hub"
    assert settings.image_pull_secrets == ("mirror",)
    assert container["image"] == settings.gateway_image
    assert container["image"].startswith("mirror.example:5000/hub/motley-dev/motley:")
    wrong = render("--set=images.registry=https://mirror.example")
    assert wrong.returncode != 0 and "registry" in wrong.stderr


@needs_helm
def test_with_namespaces_the_write_rights_are_bound_only_there() -> None:
    found = rendered("--set", "namespaces={team-a,research}")
    bound = {
        (d["kind"], d["metadata"].get("namespace"), d["roleRef"]["name"])
        for d in found
        if d["kind"].endswith("RoleBinding")
    }
    assert bound == {
        ("ClusterRoleBinding", None, "motley"),
        ("RoleBinding", "team-a", "motley-namespace"),
        ("RoleBinding", "research", "motley-namespace"),
        ("RoleBinding", "default", "motley-events"),
        ("RoleBinding", "motley-system", "motley-leader"),
    }
    roles = {(d["kind"], d["metadata"]["name"]): d for d in found if d["kind"].endswith("Role")}
    everywhere = [r for r in roles["ClusterRole", "motley"]["rules"] if "events" in r["resources"]]
    assert everywhere == []
    verbs = {verb for rule in roles["ClusterRole", "motley"]["rules"] for verb in rule["verbs"]}
    writes = [
        r for r in roles["ClusterRole", "motley"]["rules"] if {"create", "patch"} & {*r["verbs"]}
    ]
    assert verbs == {"list", "watch", "patch"}
    assert [rule["resources"] for rule in writes] == [["fleets/status"]]
    assert roles["Role", "motley-events"]["metadata"]["namespace"] == "default"


@needs_helm
@pytest.mark.parametrize(
    ("setting", "kind", "count"),
    [
        ("podDisruptionBudget=true", "PodDisruptionBudget", 1),
        ("podDisruptionBudget=false", "PodDisruptionBudget", 0),
        ("metrics.serviceMonitor=true", "ServiceMonitor", 1),
        ("metrics.serviceMonitor=false", "ServiceMonitor", 0),
        ("metrics.podMonitor=true", "PodMonitor", 1),
        ("metrics.podMonitor=false", "PodMonitor", 0),
        ("metrics.rules=true", "PrometheusRule", 1),
        ("metrics.rules=false", "PrometheusRule", 0),
        ("metrics.dashboard=true", "ConfigMap", 1),
        ("metrics.dashboard=false", "ConfigMap", 0),
        ("metrics.service=false", "Service", 0),
        ("priorityClassQuota=true", "ResourceQuota", 1),
        ("priorityClassQuota=false", "ResourceQuota", 0),
        ("priorityClassName=system-node-critical", "ResourceQuota", 1),
        ("priorityClassName=planners", "ResourceQuota", 0),
        ("priorityClassName=", "ResourceQuota", 0),
        ("crds.install=false", "CustomResourceDefinition", 0),
        ("rbac.create=false", "ClusterRoleBinding", 0),
    ],
)
def test_a_switch_turns_its_objects_on_and_off(setting: str, kind: str, count: int) -> None:
    assert sum(d["kind"] == kind for d in rendered("--set", setting)) == count


@needs_helm
def test_the_rules_and_the_dashboard_are_the_files_as_they_stand() -> None:
    found = rendered("--set", "metrics.rules=true,metrics.dashboard=true")
    (rule,) = [d for d in found if d["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    (board,) = [d for d in found if d["kind"] == "ConfigMap"]
    written = json.loads((CHART / "files" / "dashboard.json").read_text())
    assert json.loads(board["data"]["motley.json"]) == written


@needs_helm
def test_pods_are_scraped_with_the_labels_that_measuring_asks_for() -> None:
    from motley_operator.facts.queries import COMPONENT, OWNER

    found = rendered("--set", "metrics.podMonitor=true,namespaces={team-a}")
    (monitor,) = [d for d in found if d["kind"] == "PodMonitor"]
    labels = {re.sub(r"[^a-z]", "_", name) for name in monitor["spec"]["podTargetLabels"]}
    assert {COMPONENT, *OWNER} - {"namespace"} <= labels  # the namespace is always there
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_the_quota_is_of_the_operators_class_alone_and_limits_nobody() -> None:
    from motley_operator.admission.counting import charged, pod_use
    from motley_operator.facts.quotas import parse_quota

    (document,) = shipped("ResourceQuota")
    quota = parse_quota(document)
    (deployment,) = shipped("Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert document["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert charged(quota, pod_use(spec)) == {"pods": 1}
    for other in ("system-node-critical", "serving-high", None):
        assert charged(quota, pod_use({**spec, "priorityClassName": other})) == {}
    # More than a cluster may have: Kubernetes is made for 150,000.
    assert quota.hard["pods"] > 1_000_000


@needs_helm
def test_uninstalling_keeps_the_crds_unless_told_otherwise() -> None:
    def policies(*arguments: str) -> set[str | None]:
        crds = [d for d in rendered(*arguments) if d["kind"] == "CustomResourceDefinition"]
        found = (d["metadata"].get("annotations", {}) for d in crds)
        return {annotations.get("helm.sh/resource-policy") for annotations in found}

    assert policies() == {"keep"}
    assert policies("--set", "crds.keep=false") == {None}
