"""Who reaches whom under the policies that the operator makes, judged by the API's own semantics."""

from __future__ import annotations

import pytest
from e2e import chart
from e2e.chart import Document
from e2e.helm import needs_helm
from tests.isolation.judge import Peer, of, reaches
from tests.isolation.pods import CLOSED, engine_pods, gateway_pods, made

from motley_operator.settings import Settings

POLICIES = [d for d in made() if d["kind"] == "NetworkPolicy"]
HTTP, NCCL = 8000, 29500


ENGINES = [of(pod) for pod in engine_pods()]
GATEWAYS = {g.labels["motley.dev/resource"]: g for g in map(of, gateway_pods())}
STRANGER = Peer("team-a", {"app": "shell"})
SCRAPER = Peer("monitoring", {"app": "prometheus"})
PORTS = {
    pod["metadata"]["labels"]["motley.dev/resource"]: c["ports"][0]["containerPort"]
    for pod in engine_pods()
    for c in pod["spec"]["containers"]
    if c.get("ports") and pod["metadata"]["labels"]["motley.dev/role"] != "trainer"
}


def same(one: Peer, other: Peer) -> bool:
    """Whether two pods are of one resource."""
    keys = ("motley.dev/resource", "motley.dev/kind")
    return all(one.labels[key] == other.labels[key] for key in keys)


def test_without_the_setting_nothing_is_made() -> None:
    assert [d for d in made(Settings()) if d["kind"] == "NetworkPolicy"] == []
    named = Settings(metrics_namespaces=("monitoring",))
    assert [d for d in made(named) if d["kind"] == "NetworkPolicy"] == []


def test_an_engine_is_reached_by_its_own_gateway_and_by_no_other() -> None:
    for engine in ENGINES:
        port = PORTS[engine.labels["motley.dev/resource"]]
        for gateway in GATEWAYS.values():
            assert reaches(gateway, engine, port, POLICIES) == same(gateway, engine)
            assert not reaches(gateway, engine, NCCL, POLICIES)


def test_engines_of_one_resource_reach_each_other_on_every_port_and_others_on_none() -> None:
    for one in ENGINES:
        for other in ENGINES:
            for port in (PORTS[other.labels["motley.dev/resource"]], NCCL):
                assert reaches(one, other, port, POLICIES) == same(one, other)


@pytest.mark.parametrize("namespace", ["team-a", "monitoring", "elsewhere"])
def test_a_stranger_reaches_an_engine_only_from_where_metrics_are_scraped(namespace: str) -> None:
    stranger = Peer(namespace, STRANGER.labels)
    for engine in ENGINES:
        port = PORTS[engine.labels["motley.dev/resource"]]
        assert reaches(stranger, engine, port, POLICIES) == (namespace == "monitoring")
        assert not reaches(stranger, engine, NCCL, POLICIES)


def test_a_pod_that_borrows_a_gateways_labels_elsewhere_reaches_no_engine() -> None:
    for engine in ENGINES:
        for gateway in GATEWAYS.values():
            borrowed = Peer("elsewhere", gateway.labels)
            port = PORTS[engine.labels["motley.dev/resource"]]
            assert not reaches(borrowed, engine, port, POLICIES)


def test_everyone_reaches_a_gateway_on_its_port_and_on_no_other() -> None:
    for gateway in GATEWAYS.values():
        for source in (STRANGER, SCRAPER, ENGINES[0]):
            assert reaches(source, gateway, HTTP, POLICIES)
            assert not reaches(source, gateway, 9000, POLICIES)


def test_without_namespaces_that_scrape_nobody_else_reaches_an_engine() -> None:
    alone = Settings(network_policies=True)
    policies = [d for d in made(alone) if d["kind"] == "NetworkPolicy"]
    for engine in ENGINES:
        port = PORTS[engine.labels["motley.dev/resource"]]
        assert not reaches(SCRAPER, engine, port, policies)


def rendered(*values: str) -> tuple[Document, ...]:
    """The chart's objects with these values."""
    return chart.rendered(*(f"--set={value}" for value in values))


@needs_helm
def test_the_charts_policy_opens_the_operators_metrics_to_the_named_namespaces_only() -> None:
    operator = Peer("motley-system", {"app.kubernetes.io/name": "motley-operator"})
    operator.labels["app.kubernetes.io/instance"] = "motley"
    for namespaces in ((), ("monitoring",)):
        named = f"networkPolicy.metricsNamespaces={{{','.join(namespaces)}}}"
        arguments = ("networkPolicy.operator=true", *([named] if namespaces else []))
        policies = [d for d in rendered(*arguments) if d["kind"] == "NetworkPolicy"]
        assert len(policies) == 1
        for source in (STRANGER, SCRAPER):
            allowed = source.namespace in namespaces
            assert reaches(source, operator, "metrics", policies) == allowed  # type: ignore[arg-type]
            assert not reaches(source, operator, 8081, policies)


@needs_helm
def test_the_right_to_make_policies_comes_with_the_switch() -> None:
    def may(*arguments: str) -> bool:
        roles = [d for d in rendered(*arguments) if d["kind"] == "ClusterRole"]
        rules = next(r["rules"] for r in roles if r["metadata"]["name"] == "motley-namespace")
        return any("networkpolicies" in rule["resources"] for rule in rules)

    assert not may("networkPolicy.operator=true")
    assert may("networkPolicy.engines=true")


@needs_helm
def test_the_switch_turns_the_operators_setting_on() -> None:
    import argparse

    from motley_operator.settings import add_flags, from_args

    arguments = ("networkPolicy.engines=true", "networkPolicy.metricsNamespaces={monitoring}")
    (deployment,) = (d for d in rendered(*arguments) if d["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parser = argparse.ArgumentParser()
    add_flags(parser)
    settings = from_args(parser.parse_args(container["args"]), {})
    assert settings.network_policies == CLOSED.network_policies
    assert settings.metrics_namespaces == CLOSED.metrics_namespaces


def test_the_default_chart_makes_no_policy() -> None:
    assert not chart.shipped("NetworkPolicy")
