"""A registry of one's own: every image that Motley chooses comes from there, with the Secrets to pull it.

`MOTLEY_WRITE_GOLDENS=1 python -m pytest tests/operator/test_mirrored_images.py` writes the golden anew.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from motley_operator import manifests, translate
from motley_operator.images import moved, moved_catalog
from motley_operator.settings import Settings, add_flags, from_args
from motley_operator.testing import World, gpu_node, job, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import Operated
from motley_planner.catalog import load_catalog

GOLDEN = Path(__file__).parents[1] / "goldens" / "manifests" / "mirrored-pool.yaml"
REGISTRY = "mirror.example:5000/hub"
CATALOG = load_catalog()
Document = dict[str, Any]


def settings_of(*arguments: str, **environ: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return from_args(parser.parse_args(arguments), environ)


AIRTIGHT = settings_of(f"--image-registry={REGISTRY}", "--image-pull-secrets=mirror,other")


def built(document: Document, replicas: list[Any], settings: Settings) -> list[Document]:
    """Desired objects of one resource, by the catalog that the operator takes under these settings."""
    catalog = moved_catalog(CATALOG, settings.image_registry)
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    key = world.add(document)
    facts = world.facts()
    translation = translate.translate(facts, catalog, settings)
    assert translation.rejected == {}
    plan = plan_of(slice_of(key, replicas, digest="0123456789ab"))
    return list(manifests.build(plan, translation, facts, catalog, settings))


def pod_specs(objects: list[Document]) -> list[Document]:
    """The pod specs of pods, Deployments and Jobs."""
    specs = (o.get("spec", {}) for o in objects)
    whole = [s.get("template", {}).get("spec", s) for s in specs]
    return [spec for spec in whole if "containers" in spec]


def cached() -> Document:
    cache = {"persistentVolumeClaim": {"claimName": "models"}}
    return pool(model={"id": "Qwen/Qwen3-8B", "cache": cache})


@pytest.mark.parametrize(
    ("image", "there"),
    [
        ("vllm/vllm-openai:v0.9", "mirror.example:5000/hub/vllm/vllm-openai:v0.9"),
        ("python", "mirror.example:5000/hub/python"),
        ("ghcr.io/a/b@sha256:00", "mirror.example:5000/hub/a/b@sha256:00"),
        ("localhost/a:1", "mirror.example:5000/hub/a:1"),
        ("host:5000/a:1", "mirror.example:5000/hub/a:1"),
        ("", ""),
    ],
)
def test_an_image_keeps_its_name_and_changes_its_host(image: str, there: str) -> None:
    assert moved(image, REGISTRY) == there
    assert moved(image, "") == image


def test_a_pool_of_an_air_gapped_cluster_is_as_reviewed() -> None:
    objects = json.loads(json.dumps(built(cached(), [replica()], AIRTIGHT)))  # no YAML aliases
    text = yaml.safe_dump_all(objects, sort_keys=True, width=100)
    if os.environ.get("MOTLEY_WRITE_GOLDENS"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_every_image_comes_from_the_registry_and_every_pod_has_the_secrets() -> None:
    gang = replica("trainer", engine="fsdp", tensor_parallel=8, nodes=("h0", "h1"), rates={})
    rollout = replica("rollout", engine="sglang")
    found = [
        *pod_specs(built(cached(), [replica()], AIRTIGHT)),
        *pod_specs(built(job(), [rollout, gang], AIRTIGHT)),
    ]
    assert len(found) == 6  # gateway, Job, engine; rollout, two trainer pods
    for spec in found:
        assert spec["imagePullSecrets"] == [{"name": "mirror"}, {"name": "other"}]
        for container in spec["containers"]:
            assert container["image"].startswith(f"{REGISTRY}/")


def test_without_the_settings_nothing_is_said_of_secrets() -> None:
    for spec in pod_specs(built(cached(), [replica()], Settings())):
        assert "imagePullSecrets" not in spec


def test_an_image_that_somebody_names_stays_and_a_templates_secrets_are_kept() -> None:
    template = {"spec": {"imagePullSecrets": [{"name": "own"}, {"name": "mirror"}]}}
    document = cached()
    document["spec"] |= {
        "engine": {"name": "vllm", "image": "ghcr.io/own/vllm:1"},
        "podTemplate": template,
    }
    gateway, job, engine = (
        next(o for o in built(document, [replica()], AIRTIGHT) if o["kind"] == kind)
        for kind in ("Deployment", "Job", "Pod")
    )
    (container,) = engine["spec"]["containers"]
    assert container["image"] == "ghcr.io/own/vllm:1"
    for whole in (engine, job):
        (spec,) = pod_specs([whole])
        assert {each["name"] for each in spec["imagePullSecrets"]} == {"own", "mirror", "other"}
    (spec,) = pod_specs([gateway])
    assert [each["name"] for each in spec["imagePullSecrets"]] == ["mirror", "other"]


def test_a_gateway_image_that_is_given_is_taken_as_it_is() -> None:
    assert AIRTIGHT.gateway_image == moved(Settings().gateway_image, REGISTRY)
    given = settings_of(f"--image-registry={REGISTRY}/", "--gateway-image=ghcr.io/own/motley:2")
    assert (given.image_registry, given.gateway_image) == (REGISTRY, "ghcr.io/own/motley:2")
    named = settings_of(MOTLEY_IMAGE_REGISTRY=REGISTRY, MOTLEY_IMAGE_PULL_SECRETS="a, b")
    assert named.gateway_image == AIRTIGHT.gateway_image
    assert named.image_pull_secrets == ("a", "b")


@pytest.mark.parametrize("wrong", ["https://mirror.example", "mirror", "mirror.example/a b"])
def test_what_is_no_registry_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="MOTLEY_IMAGE_REGISTRY"):
        settings_of(MOTLEY_IMAGE_REGISTRY=wrong)
    with pytest.raises(SystemExit):
        settings_of(f"--image-registry={wrong}")


def test_secrets_that_an_admin_adds_replace_no_pod_and_fetch_no_weights_again() -> None:
    made = Operated(nodes=2)
    running = made.world.add(pool("running"))
    made.world.add({**cached(), "metadata": {**cached()["metadata"], "name": "cold"}})
    made.run()

    def objects(kind: str) -> dict[str, Any]:
        there = made.world.owned.items()
        return {at[-1]: each for at, each in there if each["kind"] == kind}

    pods, jobs = made.uids(running), objects("Job")
    assert pods and jobs
    made.settings = replace(made.settings, image_pull_secrets=("mirror",))
    made.run()
    assert made.uids(running) == pods
    assert objects("Job") == jobs
    for gateway in objects("Deployment").values():
        assert pod_specs([gateway])[0]["imagePullSecrets"] == [{"name": "mirror"}]
