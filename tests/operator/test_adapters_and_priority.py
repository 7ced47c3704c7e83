"""LoRA adapters and engine priority, from a person's words to arguments, memory and routing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from motley_operator import manifests, translate
from motley_operator.api import parse
from motley_operator.api.semantics import semantic_findings
from motley_operator.manifests.stages import stages_of
from motley_operator.settings import Settings
from motley_operator.testing import World, cascade, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import RoutingTable, parse_routing
from motley_planner.domain.demand import ServingDemand

CATALOG, SETTINGS = load_catalog(), Settings(gateway_image="example.org/motley:test")
HUB = {"type": "HuggingFace", "huggingFace": {"id": "acme/sql-lora"}}
CLAIM = {
    "type": "PersistentVolumeClaim",
    "persistentVolumeClaim": {"claimName": "adapters", "subPath": "law"},
}
ADAPTERS = [
    {"name": "sql", "source": HUB, "rank": 8},
    {"name": "law", "source": CLAIM, "rank": 24},
    {"name": "tax", "source": {**CLAIM, "persistentVolumeClaim": {"claimName": "adapters"}}},
]


class Built:
    """What the operator makes of one document with one replica."""

    def __init__(self, document: dict[str, Any], engine: str = "vllm", phase: str = "both") -> None:
        world = World().add_node(gpu_node("h0"))
        key = world.add(document)
        facts = world.facts()
        translation = translate.translate(facts, CATALOG, SETTINGS)
        assert translation.rejected == {}
        (self.demand,) = translation.snapshot.services
        plan = plan_of(slice_of(key, [replica(engine=engine, phase=phase)]))
        self.objects = manifests.build(plan, translation, facts, CATALOG, SETTINGS)

    @property
    def pod(self) -> dict[str, Any]:
        (found,) = [each for each in self.objects if each["kind"] == "Pod"]
        return found

    @property
    def args(self) -> list[str]:
        return list(self.pod["spec"]["containers"][0]["args"])

    @property
    def routing(self) -> RoutingTable:
        (found,) = [o for o in self.objects if o["metadata"]["name"] == "chat-routing"]
        return parse_routing(json.loads(found["data"]["routing.json"]))


def after(args: list[str], flag: str, count: int = 1) -> list[str]:
    at = args.index(flag)
    return args[at + 1 : at + 1 + count]


def test_vllm_is_told_of_adapters_and_rounds_their_rank_up() -> None:
    built = Built(pool(adapters=ADAPTERS))
    assert "--enable-lora" in built.args
    assert after(built.args, "--max-loras") == ["3"]
    assert after(built.args, "--max-lora-rank") == ["32"]
    modules = ["sql=acme/sql-lora", "law=/adapters/law", "tax=/adapters/tax"]
    assert after(built.args, "--lora-modules", 3) == modules
    assert built.routing.stages[0].adapters == {name: name for name in ("sql", "law", "tax")}
    assert set(built.routing.model_names[-3:]) == {"sql", "law", "tax"}
    assert "sql" not in built.routing.served_model_names  # an older gateway must not take it


def test_sglang_is_told_of_adapters_and_asked_by_base_and_name() -> None:
    built = Built(pool(adapters=ADAPTERS, engine={"name": "sglang"}), "sglang")
    assert after(built.args, "--max-loras-per-batch") == ["3"]
    assert after(built.args, "--max-lora-rank") == ["24"]
    assert after(built.args, "--lora-paths", 1) == ["sql=acme/sql-lora"]
    assert built.routing.stages[0].adapters["sql"] == "Qwen/Qwen3-8B:sql"


def test_adapters_on_a_volume_are_mounted_read_only_each_claim_once() -> None:
    spec = Built(pool(adapters=ADAPTERS)).pod["spec"]
    volumes = [v for v in spec["volumes"] if v["name"].startswith("adapter-")]
    claim = {"claimName": "adapters", "readOnly": True}
    assert volumes == [{"name": "adapter-0", "persistentVolumeClaim": claim}]
    mounts = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "adapter-0"]
    assert mounts == [
        {"name": "adapter-0", "mountPath": "/adapters/law", "readOnly": True, "subPath": "law"},
        {"name": "adapter-0", "mountPath": "/adapters/tax", "readOnly": True},
    ]


def test_the_planner_is_told_of_the_memory_that_adapters_take() -> None:
    def demanded(document: dict[str, Any], engine: str = "vllm") -> tuple[int, int]:
        demand = Built(document, engine).demand
        assert isinstance(demand, ServingDemand)
        model = demand.stages[0].model
        return model.adapter_slots, model.adapter_rank

    assert demanded(pool()) == (0, 0)
    assert demanded(pool(adapters=ADAPTERS)) == (3, 32)
    many = [{"name": f"a{i}", "source": HUB, "rank": 8} for i in range(20)]
    assert demanded(pool(adapters=many)) == (8, 8)


@pytest.mark.parametrize(
    ("engine", "flag", "order"),
    [
        ("vllm", ["--scheduling-policy", "priority"], "lowFirst"),
        ("sglang", ["--enable-priority-scheduling"], "highFirst"),
    ],
)
def test_priority_in_the_engine_is_opt_in(engine: str, flag: list[str], order: str) -> None:
    on = Built(pool(engine={"name": engine, "priority": True}), engine)
    off = Built(pool(engine={"name": engine}), engine)
    at = on.args.index(flag[0])
    assert on.args[at : at + len(flag)] == flag and flag[0] not in off.args
    assert (on.routing.stages[0].priority, off.routing.stages[0].priority) == (order, "")


def found(document: dict[str, Any]) -> Iterable[tuple[str, str]]:
    resource = parse(document)
    return [(".".join(map(str, f.path)), f.message) for f in semantic_findings(resource)]


def test_what_an_engine_cannot_do_is_refused_with_those_that_can() -> None:
    plain = {"name": "llamacpp"}
    model = {"id": "Qwen/Qwen3-8B", "precision": "bf16"}
    ((path, said),) = found(pool(model=model, engine=plain | {"priority": True}))
    assert path == "spec.engine.priority" and "take one of sglang, vllm" in said
    ((path, said),) = found(pool(model=model, engine=plain, adapters=ADAPTERS[:1]))
    assert path == "spec.adapters" and "take one of sglang, vllm" in said
    ((path, said),) = found(pool(adapters=[ADAPTERS[0] | {"name": "chat"}]))
    assert path == "spec.adapters.0.name" and "own name" in said


def test_pods_made_before_these_fields_were_there_are_still_as_wanted() -> None:
    # Hashes of version 0.1 for the samples; another one would roll every pod at an upgrade.
    (main,) = stages_of(parse(pool()))
    small, _ = stages_of(parse(cascade()))
    assert (main.inputs_hash, small.inputs_hash) == (BEFORE_POOL, BEFORE_STAGE)
    (ordered,) = stages_of(parse(pool(engine={"name": "vllm", "priority": True})))
    (adapted,) = stages_of(parse(pool(adapters=ADAPTERS)))
    assert len({main.inputs_hash, ordered.inputs_hash, adapted.inputs_hash}) == 3


BEFORE_POOL, BEFORE_STAGE = "8e006099845b", "8e006099845b"


def test_gateways_are_told_where_spans_go_only_where_an_admin_says_so() -> None:
    for endpoint in ("", "http://collector.monitoring:4318"):
        world = World().add_node(gpu_node("h0"))
        key = world.add(pool())
        facts, settings = world.facts(), Settings(gateway_otlp_endpoint=endpoint)
        translation = translate.translate(facts, CATALOG, settings)
        plan = plan_of(slice_of(key, [replica()]))
        objects = manifests.build(plan, translation, facts, CATALOG, settings)
        (found,) = [each for each in objects if each["kind"] == "Deployment"]
        args = found["spec"]["template"]["spec"]["containers"][0]["args"]
        assert args[7:] == (["--otlp-endpoint", endpoint] if endpoint else [])
