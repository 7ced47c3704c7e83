"""Goldens: `MOTLEY_WRITE_GOLDENS=1 python -m pytest tests/operator/test_manifests_build.py` writes
tests/goldens/manifests/ anew; review the difference before committing it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from motley_operator import manifests, translate
from motley_operator.admission.merging import with_template
from motley_operator.api.podtemplates import template_findings
from motley_operator.manifests.weights import PROGRAM
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
from motley_operator.translate.running import read_unit
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import parse_routing
from motley_planner.domain.plan import PlannedReplica, PolicyChoice
from motley_runtime.gateway.options import add_arguments, settings_of

CATALOG = load_catalog()
SETTINGS = Settings(gateway_image="example.org/motley:test")
GOLDENS = Path(__file__).parent.parent / "goldens" / "manifests"
Document = dict[str, Any]

CLAIM = {
    "type": "PersistentVolumeClaim",
    "persistentVolumeClaim": {"claimName": "weights", "subPath": "qwen3-8b"},
}
HUB = {
    "type": "HuggingFace",
    "huggingFace": {"revision": "abc123", "tokenSecretRef": {"name": "hub", "key": "token"}},
}


def built(
    document: Document, replicas: Iterable[PlannedReplica], policies: Iterable[PolicyChoice] = ()
) -> list[Document]:
    """Desired objects of one resource with these replicas."""
    world = World(priority_classes={"serving-high": 1000}).add_node(gpu_node("h0"), gpu_node("h1"))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    key = world.add(document)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    assert translation.rejected == {}
    plan = plan_of(slice_of(key, list(replicas), policies=list(policies), digest="0123456789ab"))
    return list(manifests.build(plan, translation, facts, CATALOG, SETTINGS))


def of_kind(objects: Iterable[Document], kind: str) -> list[Document]:
    return [each for each in objects if each["kind"] == kind]


def sglang(**changes: Any) -> PlannedReplica:
    return replica(engine="sglang", **changes)


GANG = replica("trainer", engine="fsdp", tensor_parallel=8, nodes=("h0", "h1"), rates={})
CASES: dict[str, tuple[Document, list[PlannedReplica], list[PolicyChoice]]] = {
    "vllm-pool": (
        pool(
            model={"id": "Qwen/Qwen3-8B", "precision": "fp8", "source": CLAIM},
            engine={"name": "vllm", "extraArgs": ["--enable-prefix-caching"]},
            priorityClassName="serving-high",
            gateway={"replicas": 3, "port": 8080, "auth": {"secretRef": {"name": "keys"}}},
        ),
        [replica(precision="fp8", tensor_parallel=2), replica(ordinal=1, nodes=("h1",))],
        [],
    ),
    "sglang-pool": (
        pool(engine={"name": "sglang"}, model={"id": "Qwen/Qwen3-8B", "source": HUB}),
        [sglang(tensor_parallel=4)],
        [],
    ),
    "cached-pool": (
        pool(
            model={
                "id": "Qwen/Qwen3-8B",
                "source": HUB,
                "cache": {"persistentVolumeClaim": {"claimName": "models", "subPath": "shared/"}},
            }
        ),
        [replica()],
        [],
    ),
    "vllm-cascade": (
        cascade(),
        [replica("small"), replica("large", model="Qwen/Qwen3-32B", tensor_parallel=2)],
        [PolicyChoice("t0.5", 1.0, {"small": 0.5})],
    ),
    "amd-pool": (pool(), [replica(gpu="MI300X")], []),
    "areal-job": (
        job(),
        [replica("rollout", engine="sglang"), GANG],
        [],
    ),
    "verl-job": (
        job(framework={"name": "verl", "image": "example.org/verl:1"}),
        [replica("rollout", engine="sglang"), GANG],
        [],
    ),
    "custom-job": (
        job(
            framework={
                "name": "custom",
                "image": "example.org/own:1",
                "command": ["train", "--now"],
            }
        ),
        [replica("rollout", engine="sglang"), GANG],
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_manifests_are_as_reviewed(name: str) -> None:
    document, replicas, policies = CASES[name]
    objects = json.loads(json.dumps(built(document, replicas, policies)))  # no YAML aliases
    text = yaml.safe_dump_all(objects, sort_keys=True, width=100)
    golden = GOLDENS / f"{name}.yaml"
    if os.environ.get("MOTLEY_WRITE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_every_object_is_owned_labeled_and_named_once(name: str) -> None:
    document, replicas, policies = CASES[name]
    objects = built(document, replicas, policies)
    places = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(places) == len(set(places))
    for each in objects:
        metadata = each["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == (
            document["kind"],
            True,
            False,
        )
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "motley"
        assert "motley.dev/inputs-hash" in metadata["annotations"]
        assert "{" not in str([c.get("args") for c in each.get("spec", {}).get("containers", ())])


@pytest.mark.parametrize("name", [n for n in CASES if not n.endswith("job")])
def test_a_gateway_understands_its_routing_and_its_arguments(name: str) -> None:
    document, replicas, policies = CASES[name]
    objects = built(document, replicas, policies)
    maps = {o["metadata"]["name"]: o for o in of_kind(objects, "ConfigMap")}
    resource = document["metadata"]["name"]
    table = parse_routing(json.loads(maps[f"{resource}-routing"]["data"]["routing.json"]))
    assert table.plan_hash == "0123456789ab"
    assert resource in table.served_model_names
    pods = {
        f"http://{p['spec']['hostname']}.{p['spec']['subdomain']}.team-a.svc"
        f":{p['spec']['containers'][0]['ports'][0]['containerPort']}"
        for p in of_kind(objects, "Pod")
    }
    assert {r.url for stage in table.stages for r in stage.replicas} == pods
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = settings_of(parser.parse_args(container["args"][1:]))
    assert settings.routing_configmap == ("team-a", f"{resource}-routing")
    mounted = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volumes = {v["name"]: v for v in deployment["spec"]["template"]["spec"]["volumes"]}
    assert "emptyDir" in volumes[mounted[str(settings.state_dir)]]
    role = of_kind(objects, "Role")[0]["rules"]
    assert role[0]["resourceNames"] == [f"{resource}-routing"]


@pytest.mark.parametrize("name", CASES)
def test_no_container_runs_a_shell(name: str) -> None:
    document, replicas, policies = CASES[name]
    objects = built(document, replicas, policies)
    specs = [
        o["spec"] if o["kind"] == "Pod" else o["spec"]["template"]["spec"]
        for o in objects
        if o["kind"] in ("Pod", "Deployment", "Job")
    ]
    assert specs
    for container in (c for spec in specs for c in spec["containers"]):
        words = [*container.get("command", ()), *container.get("args", ())]
        assert not {"sh", "bash", "/bin/sh", "/bin/bash", "env", "eval"} & set(words)
        if "-c" in words:  # of a program that is the same whatever anybody writes
            assert words == ["python3", "-c", PROGRAM]


@pytest.mark.parametrize("name", CASES)
def test_selectors_find_exactly_their_pods(name: str) -> None:
    document, replicas, policies = CASES[name]
    objects = built(document, replicas, policies)
    pods = of_kind(objects, "Pod")
    budgets = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "PodDisruptionBudget")}
    for service in of_kind(objects, "Service"):
        selector = service["spec"]["selector"].items()
        found = [p for p in pods if selector <= p["metadata"]["labels"].items()]
        own = [p for p in pods if p["spec"]["subdomain"] == service["metadata"]["name"]]
        assert found == own
    for budget in budgets.values():
        selector = budget["selector"]["matchLabels"].items()
        found = [p for p in pods if selector <= p["metadata"]["labels"].items()]
        assert budget.get("minAvailable", -1) == len(found) - 1


@pytest.mark.parametrize(("count", "limits"), [(1, []), (2, [1]), (3, [1])])
def test_of_several_gateway_pods_one_may_be_evicted_at_a_time(
    count: int, limits: list[int]
) -> None:
    objects = built(pool(gateway={"replicas": count}), [replica()])
    (gateway,) = of_kind(objects, "Deployment")
    budgets = [
        budget["spec"]
        for budget in of_kind(objects, "PodDisruptionBudget")
        if budget["spec"]["selector"] == gateway["spec"]["selector"]
    ]
    assert [budget["maxUnavailable"] for budget in budgets] == limits
    assert all(budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for budget in budgets)


def test_a_gateways_budget_has_the_name_of_no_other_resources() -> None:
    """A pool `chat-gateway` has a budget of that name for its engines."""
    taken: list[str] = []
    for name in ("chat", "chat-gateway"):
        objects = of_kind(built(pool(name), [replica()]), "PodDisruptionBudget")
        taken += [one["metadata"]["name"] for one in objects]
    assert sorted(taken) == sorted(set(taken)) and len(taken) == 4


@pytest.mark.parametrize("name", CASES)
def test_a_pod_is_pinned_by_the_scheduler_and_describes_itself(name: str) -> None:
    document, replicas, policies = CASES[name]
    pods = of_kind(built(document, replicas, policies), "Pod")
    assert len(pods) == sum(len(r.nodes) for r in replicas)
    for pod in pods:
        spec = pod["spec"]
        assert "nodeName" not in spec and "preemptionPolicy" not in spec
        tolerated = {t["key"]: t.get("tolerationSeconds") for t in spec["tolerations"]}
        assert tolerated["node.kubernetes.io/unreachable"] == 5
        assert spec["automountServiceAccountToken"] is False
        described = read_unit(pod["metadata"]["annotations"])
        assert described is not None
        planned = next(
            r for r in replicas if r.name == pod["metadata"]["labels"]["motley.dev/replica"]
        )
        for field in ("gpu", "tensor_parallel", "operating_batch", "model", "role", "stage"):
            assert described[field] == getattr(planned, field)
        assert described["fragments"] == len(planned.nodes)


def may_lie_on(spec: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether required node affinity allows a node, as Kubernetes documents `nodeSelectorTerms`."""
    operators = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, values: value is not None,
        "DoesNotExist": lambda value, values: value is None,
    }
    rule = spec.get("affinity", {}).get("nodeAffinity", {})
    required = rule.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = required["nodeSelectorTerms"] if required else [{}]
    return any(
        all(
            operators[e["operator"]](labels.get(e["key"]), e.get("values", ()))
            for e in term.get("matchExpressions", ())
        )
        for term in terms
    )


@pytest.mark.parametrize("name", ["vllm-pool", "vllm-cascade", "cached-pool"])
def test_what_is_not_pinned_keeps_off_nodes_that_opted_out_and_off_no_others(name: str) -> None:
    objects = built(*CASES[name])
    free = [o["spec"]["template"]["spec"] for o in objects if o["kind"] in ("Deployment", "Job")]
    assert len(free) == 1 + len(of_kind(objects, "Job"))
    for spec in free:
        assert not may_lie_on(spec, {"motley.dev/exclude": "true"})
        assert may_lie_on(spec, {})
        assert may_lie_on(spec, {"motley.dev/exclude": "false"})  # the node is planned on as well


def test_the_routing_says_which_trust_zone_a_replica_is_in_where_all_its_nodes_are() -> None:
    world = World().add_node(
        gpu_node("h0", labels={"motley.dev/trust-zone": "eu"}),
        gpu_node("h1", labels={"motley.dev/trust-zone": "us"}),
        gpu_node("h2"),
    )
    key = world.add(pool())
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    places = [("h0",), ("h2",), ("h0", "h1"), ("h0", "h0")]
    replicas = [replica(ordinal=i, nodes=nodes) for i, nodes in enumerate(places)]
    plan = plan_of(slice_of(key, replicas))
    objects = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    routing = next(o for o in objects if o["metadata"]["name"] == "chat-routing")
    table = parse_routing(json.loads(routing["data"]["routing.json"]))
    zones = {r.name[-1]: r.trust_zone for stage in table.stages for r in stage.replicas}
    assert zones == {"0": "eu", "1": "", "2": "", "3": "eu"}


def test_a_kept_replica_goes_on_under_the_name_it_runs_under() -> None:
    kept = replica(column="ffffffff", kept="ServingPool/team-a/chat/main-0a1b2c3d-7")
    (pod,) = of_kind(built(pool(), [kept]), "Pod")
    assert pod["metadata"]["name"] == "chat-main-0a1b2c3d-7"


def test_the_gang_meets_at_rank_zero() -> None:
    pods = of_kind(built(job(), [GANG, replica("rollout", engine="sglang")]), "Pod")
    gang = [p for p in pods if p["metadata"]["labels"]["motley.dev/role"] == "trainer"]
    assert [p["metadata"]["name"][-2:] for p in gang] == ["r0", "r1"]
    for rank, pod in enumerate(gang):
        env = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
        first = gang[0]["spec"]
        assert env["MASTER_ADDR"] == f"{first['hostname']}.{first['subdomain']}.team-a.svc"
        assert (env["NODE_RANK"], env["NNODES"], env["WORLD_SIZE"]) == (str(rank), "2", "16")
        assert pod["spec"]["restartPolicy"] == "Never"


def test_old_gpus_get_half_precision_and_the_longest_request_fits_the_model() -> None:
    old, new = (
        of_kind(built(pool(), [replica(gpu=gpu)]), "Pod")[0]["spec"]["containers"][0]["args"]
        for gpu in ("T4", "L4")
    )
    assert old[old.index("--dtype") + 1] == "half"
    assert new[new.index("--dtype") + 1] == "auto"
    length = int(new[new.index("--max-model-len") + 1])
    assert 1000 <= length <= CATALOG.models["Qwen/Qwen3-8B"].max_context_tokens


def test_secrets_are_only_referred_to() -> None:
    document, replicas, policies = CASES["sglang-pool"]
    (pod,) = of_kind(built(document, replicas, policies), "Pod")
    (token,) = (e for e in pod["spec"]["containers"][0]["env"] if e["name"] == "HF_TOKEN")
    assert token == {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
    }


def test_a_template_is_merged_by_name_and_what_motley_writes_wins() -> None:
    template = {
        "metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}},
        "spec": {
            "tolerations": [{"key": "team", "operator": "Exists"}],
            "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "9Gi"}}],
            "containers": [
                {
                    "name": "engine",
                    "env": [
                        {"name": "HF_HOME", "value": "/elsewhere"},
                        {"name": "NEW", "value": "1"},
                    ],
                    "resources": {"requests": {"cpu": "9"}},
                },
                {"name": "sidecar", "image": "log"},
            ],
        },
    }
    (plain,) = of_kind(built(pool(), [replica()]), "Pod")
    (pod,) = of_kind(built(pool(podTemplate=template), [replica()]), "Pod")
    engine, sidecar = pod["spec"]["containers"]
    env = {e["name"]: e.get("value") for e in engine["env"]}
    assert (env["HF_HOME"], env["NEW"]) == ("/elsewhere", "1")
    assert engine["resources"]["requests"]["cpu"] == "9"
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert engine["args"] == plain["spec"]["containers"][0]["args"]
    assert sidecar == {"name": "sidecar", "image": "log"}
    assert {"name": "cache", "emptyDir": {"sizeLimit": "9Gi"}} in pod["spec"]["volumes"]
    assert pod["spec"]["tolerations"][:-1] == plain["spec"]["tolerations"]
    assert pod["metadata"]["labels"] == {"team": "x"} | plain["metadata"]["labels"]
    hashes = {p["metadata"]["annotations"]["motley.dev/inputs-hash"] for p in (pod, plain)}
    assert len(hashes) == 2


def test_merging_an_empty_template_changes_nothing() -> None:
    (pod,) = of_kind(built(pool(), [replica()]), "Pod")
    assert with_template(pod, {"metadata": {}, "spec": {}}) == pod


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"spec": {"nodeName": "x"}}, "spec.nodeName"),
        ({"spec": {"affinity": {}}}, "spec.affinity"),
        ({"spec": {"hostNetwork": True}}, "spec.hostNetwork"),
        (
            {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}},
            "spec.volumes[0].hostPath",
        ),
        (
            {"spec": {"containers": [{"name": "e", "securityContext": {"privileged": True}}]}},
            "spec.containers[0].securityContext.privileged",
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "e", "resources": {"limits": {"nvidia.com/gpu": 8}}}]
                }
            },
            "spec.containers[0].resources.limits.nvidia.com/gpu",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {"name": "e", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}
                    ]
                }
            },
            "spec.containers[0].securityContext.capabilities.add",
        ),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name"),
        ({"spec": {"containers": "x"}}, "spec.containers"),
        ({"spec": {"priorityClassName": "x"}}, "spec.priorityClassName"),
        ({"metadata": {"labels": {"motley.dev/role": "x"}}}, "metadata.labels.motley.dev/role"),
        ({"metadata": {"ownerReferences": []}}, "metadata.ownerReferences"),
        ({"kind": "Pod"}, "kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_template_may_not_say(template: Document, field: str) -> None:
    (found,) = template_findings(template, ("t",))
    assert (found.reason, found.field) == ("PodTemplateRefused", f"t.{field}")
    assert ": " in found.message
