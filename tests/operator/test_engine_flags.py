"""Names of flags and fields that no engine here can confirm, against the engines' own words.

vLLM and SGLang need GPUs. What their sources and pages say was read on 2026-11-22 and is retyped here
with where it stands; a change of the catalog that is not in these tables has to be looked up again.
"""

from __future__ import annotations

import re

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.dispatch import Reward
from motley_planner.domain.engines import LaunchSpec
from motley_runtime.gateway.branch_scores import _question, _reward
from motley_runtime.gateway.openai_api import CHAT, COMPLETIONS, ParsedRequest

# Flag -> where it stands. vLLM's files are of vllm-project/vllm at the commit named.
VLLM = {
    "--enable-lora": "vllm/engine/arg_utils.py@001999d, LoRA related configs",
    "--max-loras": "the same: LoRAs in a single batch",
    "--max-lora-rank": "the same",
    "--lora-modules": "docs/features/lora of 0.8.5: name=path, several words",
    "--scheduling-policy": "vllm/engine/arg_utils.py@001999d: SchedulerConfig(policy=...)",
}
SGLANG = {
    "--enable-lora": "docs.sglang.io/docs/advanced_features/lora",
    "--lora-paths": "the same: PATH, NAME=PATH or JSON, several words",
    "--max-loras-per-batch": "the same: adaptors used by each batch",
    "--max-lora-rank": "the same",
    "--enable-priority-scheduling": "sglang's ServerArgs; used in its tests",
}
# vllm/config/lora.py@01230b4, MaxLoRARanks.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# vllm/config/scheduler.py@01230b4: "lower value means earlier handling"; sglang's ServerArgs:
# schedule_low_priority_values_first=False, so higher values go first.
ORDER = {"vllm": "lowFirst", "sglang": "highFirst"}
# vLLM: an adapter is a model of its own name. SGLang (examples/runtime/lora.py): base:adapter.
MODEL_OF_AN_ADAPTER = {"vllm": "sql", "sglang": "org/base:sql"}


def launch_of(engine: str) -> LaunchSpec:
    launch = load_catalog().engines[engine].launch
    assert launch is not None
    return launch


@pytest.mark.parametrize(("engine", "known"), [("vllm", VLLM), ("sglang", SGLANG)])
def test_every_flag_for_adapters_and_priority_is_one_that_the_engine_documents(
    engine: str, known: dict[str, str]
) -> None:
    launch = launch_of(engine)
    assert launch.adapters is not None and launch.priority is not None
    words = [*launch.adapters.args, launch.adapters.list_arg, *launch.priority.args]
    flags = {word for word in words if word.startswith("--")}
    assert flags <= known.keys()


@pytest.mark.parametrize("engine", ORDER)
def test_priorities_are_ordered_as_the_engine_orders_them(engine: str) -> None:
    priority = launch_of(engine).priority
    assert priority is not None and priority.order == ORDER[engine]


def test_ranks_are_those_that_vllm_takes() -> None:
    adapters = launch_of("vllm").adapters
    assert adapters is not None and tuple(adapters.ranks) == VLLM_RANKS


@pytest.mark.parametrize("engine", MODEL_OF_AN_ADAPTER)
def test_an_adapter_is_asked_for_as_the_engine_wants_it(engine: str) -> None:
    adapters = launch_of(engine).adapters
    assert adapters is not None
    asked = adapters.model.format(model="org/base", name="sql")
    assert asked == MODEL_OF_AN_ADAPTER[engine]
    assert re.fullmatch(r"\S+=\S+", adapters.item.format(name="sql", path="/a"))


def test_llama_cpp_has_neither() -> None:
    """Its server takes adapters by number and scale in a request's `lora`, not by model name."""
    launch = launch_of("llamacpp")
    assert launch.adapters is None and launch.priority is None


# Path -> fields of a question beside `model`, for a chat and for a completion. vLLM's examples: 0.18.1
# pooling/pooling ("Input like Chat API"), 0.15.0 pooling/classify, 0.9.0 openai_cross_encoder_score.
REWARD_FIELDS = {
    "/pooling": ({"messages"}, {"input"}),
    "/score": ({"text_1", "text_2"}, {"text_1", "text_2"}),
    "/v1/score": ({"text_1", "text_2"}, {"text_1", "text_2"}),
    "/classify": ({"messages"}, {"input"}),
}


@pytest.mark.parametrize("path", REWARD_FIELDS)
def test_a_reward_pool_is_asked_in_the_fields_that_vllm_reads(path: str) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}]}
    forms = ((CHAT, chat), (COMPLETIONS, {"prompt": "x"}))
    for (api, body), fields in zip(forms, REWARD_FIELDS[path], strict=True):
        asked = _question(
            Reward("http://r", "m", path), ParsedRequest(api, body, False, False, "m"), "y"
        )
        assert asked.keys() == {"model", *fields}


# docs.sglang.io/docs/supported-models/classify_models and vLLM's classification API, retyped.
CLASSIFIED = {"object": "list", "data": [{"index": 0, "label": "b", "probs": [0.25, 0.75]}]}


def test_the_last_class_is_the_reward_of_a_classification() -> None:
    assert _reward(CLASSIFIED) == 0.75
