"""Names and schemas of other projects, compared with their sources; skipped where these cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.cluster.foreign import ForeignError, crds, module

from motley_operator.domain.names import QUEUE
from motley_operator.manifests import queues

ROOT = Path(__file__).parents[2]
POOL = ROOT / "docs" / "guides" / "inferencepool.yaml"

pytestmark = pytest.mark.slow  # fetches modules


def source(name: str, file: str) -> str:
    try:
        return (module(name) / file).read_text()
    except ForeignError as error:
        pytest.skip(str(error))


def test_kueue_calls_its_labels_what_motley_writes() -> None:
    pods = source("kueue", "pkg/controller/jobs/pod/constants/constants.go")
    for name, value in (
        ("GroupNameLabel", queues.GROUP),
        ("GroupTotalCountAnnotation", queues.GROUP_COUNT),
        ("GroupServingAnnotationKey", queues.GROUP_SERVING),
        ("GroupServingAnnotationValue", "true"),
    ):
        lines = [line.split("=") for line in pods.splitlines() if "=" in line]
        assert [v.strip() for n, v in lines if n.strip() == name] == [f'"{value}"']
    assert f'QueueLabel = "{QUEUE}"' in source("kueue", "pkg/controller/constants/constants.go")


def test_the_inference_pool_of_the_guide_fits_the_real_schema() -> None:
    try:
        file = "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"
        (definition,) = crds("inference", file)
    except ForeignError as error:
        pytest.skip(str(error))
    document = yaml.safe_load(POOL.read_text())
    group, version = document["apiVersion"].split("/")
    served = {v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]}
    assert definition["spec"]["group"] == group
    jsonschema.validate(document, served[version])
    with pytest.raises(jsonschema.ValidationError):
        broken: dict[str, Any] = {**document, "spec": {**document["spec"], "targetPorts": []}}
        jsonschema.validate(broken, served[version])
