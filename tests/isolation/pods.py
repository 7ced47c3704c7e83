"""What the operator and the chart make, as pod specs and policies."""

from __future__ import annotations

from pathlib import Path

from e2e.chart import Document, shipped

from motley_operator import manifests, translate
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
from motley_planner.catalog import load_catalog

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
CLOSED = Settings(network_policies=True, metrics_namespaces=("monitoring",))
AUTH = {"gateway": {"auth": {"secretRef": {"name": "keys"}}}}


def made(settings: Settings = CLOSED) -> list[Document]:
    """Everything that is wanted of a pool, a cascade and a job."""
    world = World().add_node(*(gpu_node(f"h{i}") for i in range(4)))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    rollouts = [replica("rollout", ordinal=i, engine="sglang", nodes=("h2",)) for i in range(2)]
    trainer = replica("trainer", engine="fsdp", tensor_parallel=4, nodes=("h3",))
    large = replica("large", model="Qwen/Qwen3-32B", nodes=("h1",))
    plan = plan_of(
        slice_of(world.add(pool(**AUTH)), [replica(), replica(ordinal=1)]),
        slice_of(world.add(cascade()), [replica("small", nodes=("h1",)), large]),
        slice_of(world.add(job()), [trainer, *rollouts]),
    )
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, settings)
    return list(manifests.build(plan, translation, facts, CATALOG, settings))


def operator_pod() -> Document:
    """The pod template of the chart's Deployment."""
    (found,) = shipped("Deployment")
    template: Document = found["spec"]["template"]
    return template


def gateway_pods() -> list[Document]:
    """The pod templates of the gateways."""
    return [d["spec"]["template"] for d in made() if d["kind"] == "Deployment"]


def engine_pods() -> list[Document]:
    """The pods of engines and trainers."""
    return [d for d in made() if d["kind"] == "Pod"]
