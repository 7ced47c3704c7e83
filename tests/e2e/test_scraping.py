"""What the documents and the chart make a real Prometheus scrape of the real API server's pods.

kwok's pods answer no scrape: what is judged is which targets there are, and their labels. Debian's Prometheus
is built without Kubernetes discovery, so that is played here: targets and `__meta_` labels as the
documentation of `kubernetes_sd_configs` has them for the role `pod`, in a file that Prometheus reads. What it
makes of them, by relabelling, is its own.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import prometheus
from e2e.chart import Document, rendered
from e2e.cluster.nodes import Shape, make_nodes
from e2e.fixtures import Cluster
from e2e.helm import needs_helm
from e2e.trial import Trial, pool

from motley_operator.facts.columns import COLUMN
from motley_operator.facts.queries import COMPONENT, OWNER

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        prometheus.find("prometheus") is None,
        reason="no prometheus on PATH or in the cache: install it, or on Debian run "
        "`python -m e2e.prometheus`",
    ),
]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
SINGLE = Shape("NVIDIA-L40S", 1, 46068, 16, 128, 900, "g6e.4xlarge")
SERVING = ("gateway", "serve")
Labels = frozenset[tuple[str, str]]


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A pool on one node, one whose replica lies over two, and a pod of somebody else's."""
    nodes = make_nodes(SINGLE, 3, prefix="scraped", zones=("az-1",))
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as begun:
        wide = {"model": {"id": "Qwen/Qwen3-32B"}, "parallelism": {"maxPipeline": 2}}
        begun.apply(pool("narrow", begun.namespace, 1), pool("wide", begun.namespace, 1, **wide))
        port = {"name": "http", "containerPort": 8000}
        container = {"name": "c", "image": "i", "ports": [port]}
        labels = {"app.kubernetes.io/component": "serve", "motley.dev/resource": "nobody"}
        metadata = {"name": "foreign", "namespace": begun.namespace, "labels": labels}
        begun.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                         "spec": {"containers": [container]}})  # fmt: skip
        begun.settle()
        yield begun


def documented() -> Document:
    """The scrape configuration on the page of metrics."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = (block for block in blocks if "kubernetes_sd_configs" in block)
    (job,) = yaml.safe_load(found)
    return dict(job)


def of_monitor(monitor: Document) -> Document:
    """A PodMonitor as the Prometheus operator hands it to Prometheus, by its API reference."""
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    selected = {**spec["selector"]["matchLabels"]}
    selected |= {
        term["key"]: "|".join(term["values"]) for term in spec["selector"]["matchExpressions"]
    }
    rows: list[Document] = [
        {"source_labels": [_label(name)], "regex": values, "action": "keep"}
        for name, values in selected.items()
    ]
    named = "__meta_kubernetes_pod_container_port_name"
    rows.append({"source_labels": [named], "regex": endpoint["port"], "action": "keep"})
    rows.append({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"})
    rows += [
        {"source_labels": [_label(name)], "regex": "(.+)", "target_label": _sanitized(name)}
        for name in spec["podTargetLabels"]
    ]
    for given in endpoint["relabelings"]:
        written = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
        rows.append({written.get(key, key): value for key, value in given.items()})
    discovery: Document = {"role": "pod"}
    if "matchNames" in spec["namespaceSelector"]:
        discovery["namespaces"] = {"names": spec["namespaceSelector"]["matchNames"]}
    return {
        "job_name": "podMonitor",
        "kubernetes_sd_configs": [discovery],
        "relabel_configs": rows,
    }


def _sanitized(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _label(name: str) -> str:
    return f"__meta_kubernetes_pod_label_{_sanitized(name)}"


def expected(trial: Trial) -> dict[str, Labels]:
    """By pod's address: the labels that the operator's queries rely on, out of its own labels."""
    found = {}
    for pod in trial.owned("Pod"):
        metadata = pod["metadata"]
        own = {_sanitized(name): value for name, value in metadata["labels"].items()}
        own["namespace"] = metadata["namespace"]
        if own[COMPONENT] not in SERVING or own.get("motley_dev_rank", "0") != "0":
            continue
        names = (*OWNER, COMPONENT, *([COLUMN] if own[COMPONENT] == "serve" else ()))
        found[pod["status"]["podIP"]] = frozenset((name, own[name]) for name in names)
    return found


def targets(url: str) -> dict[str, Labels]:
    """By address without port: the labels of what is scraped."""
    with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=10.0) as answer:
        rows = json.load(answer)["data"]["activeTargets"]
    found = {row["discoveredLabels"]["__address__"]: row["labels"] for row in rows}
    assert len(found) == len(rows), "a pod is scraped twice"
    return {
        address.rpartition(":")[0]: frozenset(labels.items()) for address, labels in found.items()
    }


def discovered(pods: Iterable[Document]) -> list[Document]:
    """What Kubernetes discovery finds of pods: a target for each port, or one without any."""
    found = []
    for pod in pods:
        metadata, address = pod["metadata"], pod["status"].get("podIP")
        if not address:
            continue
        labels = {
            "__meta_kubernetes_namespace": metadata["namespace"],
            "__meta_kubernetes_pod_name": metadata["name"],
            "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        }
        for name, value in (metadata.get("labels") or {}).items():
            labels[_label(name)] = value
            labels[_label(name).replace("_label_", "_labelpresent_", 1)] = "true"
        for container in pod["spec"]["containers"]:
            inside = {**labels, "__meta_kubernetes_pod_container_name": container["name"]}
            for port in container.get("ports") or ({},):
                at = f"{address}:{port['containerPort']}" if port else address
                named = {"__meta_kubernetes_pod_container_port_name": port.get("name", "")}
                found.append({"targets": [at], "labels": {**inside, **named}})
    return found


def assert_found(trial: Trial, scrape: Document, folder: Path) -> None:
    """Prometheus scrapes the pods that it should and no other, with their labels."""
    (discovery,) = scrape["kubernetes_sd_configs"]
    spaces = discovery.get("namespaces", {}).get("names")
    pods = [
        p for p in trial.api.list("Pod") if spaces is None or p["metadata"]["namespace"] in spaces
    ]
    (folder / "pods.json").write_text(json.dumps(discovered(pods)))
    rest = {key: value for key, value in scrape.items() if key != "kubernetes_sd_configs"}
    played = {**rest, "file_sd_configs": [{"files": [str(folder / "pods.json")]}]}
    wanted, seen = expected(trial), {}
    with prometheus.running(folder, played) as url:

        def is_found() -> bool:
            seen.update(found=targets(url))
            return seen["found"].keys() == wanted.keys()

        try:
            trial.wait(is_found, 30.0, "its targets are the pods that serve HTTP")
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen} in place of {wanted}") from error
        for address, labels in wanted.items():
            assert labels <= seen["found"][address], address


def test_there_are_engines_gateways_and_a_pod_behind_the_first_of_a_replica(trial: Trial) -> None:
    """Else what follows would not show that they are told apart."""
    labels: list[dict[str, Any]] = [pod["metadata"]["labels"] for pod in trial.owned("Pod")]
    assert {each["app.kubernetes.io/component"] for each in labels} >= set(SERVING)
    assert "1" in {each.get("motley.dev/rank") for each in labels}
    values = {value for each in expected(trial).values() for name, value in each if name == COLUMN}
    assert len(values) == 2


def test_the_documented_configuration_finds_what_serves_with_its_labels(
    trial: Trial, tmp_path: Path
) -> None:
    assert_found(trial, documented(), tmp_path)


@needs_helm
def test_the_charts_pod_monitor_finds_the_same(trial: Trial, tmp_path: Path) -> None:
    values = f"metrics.podMonitor=true,namespaces={{{trial.namespace}}}"
    (monitor,) = (d for d in rendered(f"--set={values}") if d["kind"] == "PodMonitor")
    assert_found(trial, of_monitor(monitor), tmp_path)
