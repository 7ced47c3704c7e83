"""What the chart makes of the Prometheus operator's kinds fits that project's own CRDs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
from e2e.chart import Document, rendered
from e2e.cluster.foreign import ForeignError, crds
from e2e.helm import needs_helm

KINDS = ("servicemonitors", "podmonitors", "prometheusrules")
VALUES = "metrics.serviceMonitor=true,metrics.podMonitor=true,metrics.rules=true,namespaces={a,b}"


@pytest.fixture(scope="module")
def schemas() -> dict[str, Document]:
    """The schema of each kind."""
    folder = "example/prometheus-operator-crd/monitoring.coreos.com_"
    try:
        found = crds("prometheus-operator", *(f"{folder}{kind}.yaml" for kind in KINDS))
    except ForeignError as error:
        pytest.skip(f"no CRDs of the Prometheus operator: {error}")
    return {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for crd in found
    }


def unknown(value: Any, schema: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Fields that the schema does not have: the API server would drop them without a word."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from unknown(each, schema.get("items", {}), f"{at}[{i}]")
    if not isinstance(value, Mapping) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name, inner in value.items():
        if name in known:
            yield from unknown(inner, known[name], f"{at}.{name}")
        elif not more:
            yield f"{at}.{name}"


def wrong(document: Document, schema: Document) -> list[str]:
    """All that does not fit, but for metadata, which is not the CRD's."""
    rest = {key: value for key, value in document.items() if key != "metadata"}
    mistakes = jsonschema.Draft7Validator(schema).iter_errors({**rest, "metadata": {}})
    return [*(mistake.message for mistake in mistakes), *unknown(rest, schema)]


@needs_helm
def test_monitors_and_rules_fit_the_projects_own_schemas(schemas: dict[str, Document]) -> None:
    found = [
        d
        for d in rendered(f"--set={VALUES}")
        if d["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    assert {d["kind"] for d in found} == set(schemas)
    for document in found:
        assert wrong(document, schemas[document["kind"]]) == []
        misspelt = {**document, "spec": {**document["spec"], "podTargetLables": ["a"]}}
        assert wrong(misspelt, schemas[document["kind"]]) == [".spec.podTargetLables"]
