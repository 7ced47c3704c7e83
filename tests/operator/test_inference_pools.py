"""The InferencePool of the guide selects the engines that may be sent requests, at their port."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_pool_of_the_guide_selects_exactly_the_serving_engines() -> None:
    pool = yaml.safe_load((ROOT / "docs" / "guides" / "inferencepool.yaml").read_text())
    wanted = {**pool["spec"]["selector"]["matchLabels"], "motley.dev/resource": "chat"}
    text = (ROOT / "tests" / "goldens" / "manifests" / "vllm-pool.yaml").read_text()
    objects = list(yaml.safe_load_all(text))
    engines = [o for o in objects if o["kind"] == "Pod"]
    gateways = [o["spec"]["template"] for o in objects if o["kind"] == "Deployment"]
    assert engines and gateways
    for pod in engines:
        labels = pod["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        drained = {k: v for k, v in labels.items() if k != "motley.dev/serving"}
        assert not wanted.items() <= drained.items()
        (port,) = pod["spec"]["containers"][0]["ports"]
        assert port["containerPort"] == pool["spec"]["targetPorts"][0]["number"]
    assert not any(wanted.items() <= g["metadata"]["labels"].items() for g in gateways)
