"""The real node's enforcer against the judge of this folder: the same connections pass."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from e2e.cluster import policies
from tests.isolation.judge import of, reaches
from tests.isolation.pods import engine_pods, gateway_pods, made

Document = dict[str, Any]
PORTS = (8000, 8080, 30000, 29500, 9)


def running(pod: Document, number: int, namespace: str = "team-a") -> Document:
    """A pod that has an address."""
    metadata = {**pod["metadata"], "namespace": namespace, "uid": f"uid-{number}"}
    return {**pod, "metadata": metadata, "status": {"podIP": f"10.0.0.{number}"}}


def stranger(number: int, namespace: str) -> Document:
    """A pod of somebody else."""
    pod: Document = {"metadata": {"labels": {"app": "shell"}}, "spec": {"containers": []}}
    return running(pod, number, namespace)


def space(name: str) -> Document:
    """A namespace with the label that every API server gives it."""
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}


SPACES = [space(name) for name in ("team-a", "monitoring", "elsewhere")]
OURS = [running(pod, i + 1) for i, pod in enumerate([*engine_pods(), *gateway_pods()])]
PODS = [*OURS, *(stranger(100 + i, one["metadata"]["name"]) for i, one in enumerate(SPACES))]
POLICIES = [one for one in made() if one["kind"] == "NetworkPolicy"]


def lets(text: str, source: Document, target: Document, port: int) -> bool:
    """What a packet filter with these rules does with the first packet of a connection."""
    lines = text.splitlines()
    jump = rf"-A {policies.CHAIN} -d {re.escape(target['status']['podIP'])}/32 -j (\S+)"
    found = [hit[1] for line in lines if (hit := re.fullmatch(jump, line))]
    for chain in found:
        for line in lines:
            if not line.startswith(f"-A {chain} "):
                continue
            rule = line.removeprefix(f"-A {chain} ")
            sender = re.search(r"-s (\S+)/32 ", rule)
            goal = re.search(r"-p tcp --dport (\d+) ", rule)
            is_meant = sender is None or sender[1] == source["status"]["podIP"]
            if is_meant and (goal is None or int(goal[1]) == port):
                return rule.endswith("-j RETURN")
    return True


def test_the_same_connections_pass_as_by_the_apis_semantics() -> None:
    text = policies.rules(PODS, SPACES, POLICIES)
    judged = set()
    for source, target in itertools.product(PODS, PODS):
        peers = [
            type(of(one))(one["metadata"]["namespace"], one["metadata"]["labels"])
            for one in (source, target)
        ]
        for port in PORTS:
            expected = reaches(peers[0], peers[1], port, POLICIES)
            assert lets(text, source, target, port) == expected, (source, target, port)
            judged.add((expected, target in OURS))
    assert judged == {(True, True), (False, True), (True, False)}


def test_a_pod_that_is_over_or_on_its_nodes_network_is_in_no_rule() -> None:
    over = {**OURS[0], "status": {**OURS[0]["status"], "phase": "Succeeded"}}
    outside = {**OURS[0], "spec": {**OURS[0]["spec"], "hostNetwork": True}}
    for pod in (over, outside, {**OURS[0], "status": {}}):
        assert policies.chains_of(policies.rules([pod], SPACES, POLICIES)) == set()
    assert len(policies.chains_of(policies.rules(OURS[:1], SPACES, POLICIES))) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"policyTypes": ["Ingress", "Egress"]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        {"ingress": [{"ports": [{"port": 1, "endPort": 2}]}]},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
    ],
)
def test_what_is_not_enforced_ends_it(spec: Document) -> None:
    metadata = {"name": "odd", "namespace": "team-a"}
    with pytest.raises(policies.Unknown):
        policies.rules(OURS, SPACES, [{"metadata": metadata, "spec": spec}])


def test_a_port_by_its_name_is_the_target_containers_own() -> None:
    ports = [{"name": "metrics", "containerPort": 9090}]
    pod = running({"metadata": {}, "spec": {"containers": [{"ports": ports}]}}, 1)
    rule = {"ports": [{"port": "metrics"}, {"port": "nobodys"}]}
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}
    policy = {"metadata": {"name": "one", "namespace": "team-a"}, "spec": spec}
    text = policies.rules([pod], SPACES, [policy])
    assert [port for port in (9090, 9091) if lets(text, pod, pod, port)] == [9090]
