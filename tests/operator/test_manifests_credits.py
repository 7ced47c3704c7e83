"""What a gateway may have at work on a replica, as the routing says it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from motley_operator import manifests, translate
from motley_operator.api import ServingPool
from motley_operator.manifests.credits import Credits, credits_of
from motley_operator.manifests.stages import stages_of
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.costs.capacity import most_sequences
from motley_planner.costs.kv_room import kv_room
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.dispatch import parse_routing
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.plan import PlannedReplica

CATALOG = load_catalog()
SETTINGS = Settings(gateway_image="example.org/motley:test")
CLASSES = [
    {"name": "all", "promptTokens": 500, "outputTokens": 300, "weight": 3},
    {"name": "long", "promptTokens": 8000, "outputTokens": 400},
]
PROMPT, OUTPUT = (3 * 500 + 8000) / 4, (3 * 300 + 400) / 4


def credit_of(planned: PlannedReplica, gateways: int = 1, **spec: Any) -> float:
    """What the routing of a pool with this one replica says."""
    world = World().add_node(gpu_node("h0"))
    document = pool(gateway={"replicas": gateways}, **spec)
    document["spec"]["workload"]["classes"] = CLASSES
    key = world.add(document)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    assert translation.rejected == {}
    objects = manifests.build(
        plan_of(slice_of(key, [planned])), translation, facts, CATALOG, SETTINGS
    )
    routing = next(o for o in objects if o["metadata"]["name"].endswith("-routing"))
    table = parse_routing(json.loads(routing["data"]["routing.json"]))
    return table.stages[0].every_replica[0].kv_tokens


def costed(planned: PlannedReplica) -> Replica:
    model = CATALOG.model(planned.model)
    assert model is not None and CATALOG.efficiency is not None
    made = replica_of(
        model,
        planned.precision,
        CATALOG.gpus[planned.gpu],
        planned.tensor_parallel,
        CATALOG.engines[planned.engine],
        CATALOG.efficiency,
    )
    assert isinstance(made, Replica)
    return made


@pytest.mark.parametrize("gateways", [1, 2, 5])
@pytest.mark.parametrize("gpus", [1, 4])
def test_gateways_share_what_the_plan_says_fits_and_a_quarter_more(
    gpus: int, gateways: int
) -> None:
    planned = replica(tensor_parallel=gpus)
    sequences = most_sequences(costed(planned), PROMPT, OUTPUT)
    expected = 1.25 * sequences * (PROMPT + OUTPUT) / gateways
    assert credit_of(planned, gateways) == pytest.approx(expected, rel=1e-3)


def test_adapters_leave_less() -> None:
    bare = credit_of(replica())
    source = {"type": "HuggingFace", "huggingFace": {"id": "org/a"}}
    adapters = [{"name": "a", "rank": 64, "source": source}]
    with_one = credit_of(replica(), adapters=adapters)
    assert 0.9 * bare < with_one < bare


def test_a_pipeline_has_the_room_of_its_tightest_fragment() -> None:
    """Two halves of a model hold twice as much as one GPU of each, less what weights take."""
    halves = (ReplicaFragment("H100-SXM5-80GB", 1, 18), ReplicaFragment("H100-SXM5-80GB", 1, 18))
    both = credit_of(replica(pipeline=halves, nodes=("h0", "h0")))
    alone = credit_of(replica())
    assert 2.0 * alone < both < 2.6 * alone
    uneven = (ReplicaFragment("H100-SXM5-80GB", 1, 9), ReplicaFragment("H100-SXM5-80GB", 1, 27))
    assert credit_of(replica(pipeline=uneven, nodes=("h0", "h0"))) < both


def credits_alone() -> Credits:
    """Those of a plain pool with two gateways."""
    world = World()
    world.add(pool())
    translation = translate.translate(world.facts(), CATALOG, SETTINGS)
    parsed = next(iter(translation.parsed.values()))
    assert isinstance(parsed, ServingPool)
    model = CATALOG.models["Qwen/Qwen3-8B"]
    stages = [(stage, model) for stage in stages_of(parsed)]
    return credits_of(CATALOG, stages, parsed.spec.workload, 2)


def test_a_replica_that_only_prefills_has_room_for_as_many_tokens_of_prompts_as_fit() -> None:
    credits = credits_alone()
    planned = replica(stage="main", phase="prefill")
    whole = credits.of(replica(stage="main"))
    assert credits.of(replica(stage="main", phase="decode")) == whole > 0.0
    fit = kv_room(costed(planned)).tokens  # no windows in this model: a token is a token
    assert credits.of(planned) == pytest.approx(1.25 * fit / 2, rel=1e-3)
    # A running request holds 0.6 of its answer on average, so prompts and whole answers add up to more.
    assert credits.of(planned) < whole


def test_what_the_costs_do_not_know_has_no_limit() -> None:
    credits = credits_alone()
    assert credits.of(replica(stage="main", nodes=("h0", "h1"))) == 0.0
    unknown = replace(credits, catalog=replace(CATALOG, efficiency=None))
    assert unknown.of(replica(stage="main")) == 0.0


@pytest.mark.parametrize("name", sorted(CATALOG.models))
def test_room_holds_as_many_requests_as_the_costs_say(name: str) -> None:
    """Windows, latent attention and shared heads included: kv_room against most_sequences."""
    gpu = CATALOG.gpus["H200-SXM-141GB"]
    assert CATALOG.efficiency is not None
    engine = CATALOG.engines["vllm"]
    made = replica_of(CATALOG.models[name], "bf16", gpu, 8, engine, CATALOG.efficiency)
    if isinstance(made, str) or made.free_bytes <= 0:
        pytest.skip("does not fit on eight GPUs")
    prompt, output = 150_000.0, 1000.0  # beyond every window
    whole = kv_room(made).at_work(prompt, output)
    assert whole == pytest.approx(most_sequences(made, prompt, output) * (prompt + output))
