"""LoRA adapters by model name, and priorities that engines are told."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from motley_planner.dispatch import RoutingError, parse_routing, routing_document
from motley_runtime.gateway.openai_api import parse_request
from motley_runtime.gateway.prefixes import prompt_key

ADAPTERS = {"sql": "sql", "law": "org/main:law"}


def pool(routing_of: Any, *replicas: dict[str, Any], **stage: Any) -> dict[str, Any]:
    document = dict(routing_of(("main", list(replicas))))
    document["stages"] = [document["stages"][0] | stage]
    return document


async def test_an_adapter_is_asked_for_by_the_name_that_its_engines_know(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engine = await start_engine("one")
    gateway = await start_gateway(pool(routing_of, replica_of(engine), adapters=ADAPTERS))
    for named, sent in (("sql", "sql"), ("law", "org/main:law"), ("support", "org/main")):
        for stream in (False, True):
            response = await gateway.chat(model=named, stream=stream)
            assert response.status == 200 and await response.read()
            assert engine.seen[-1]["model"] == sent
    response = await gateway.post("/v1/embeddings", model="law", input="x")
    assert response.status == 200 and engine.seen[-1]["model"] == "org/main:law"
    await gateway.chat()
    assert engine.seen[-1]["model"] == "org/main"


async def test_models_lists_adapters_and_unknown_names_are_404_in_openais_form(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engine = await start_engine("one")
    gateway = await start_gateway(pool(routing_of, replica_of(engine), adapters=ADAPTERS))
    async with gateway.http.get(f"{gateway.url}/v1/models") as response:
        listed = (await response.json())["data"]
    assert [each["id"] for each in listed] == ["support", "sql", "law"]
    assert [each.get("parent") for each in listed] == [None, "support", "support"]
    async with gateway.http.get(f"{gateway.url}/v1/models/sql") as response:
        assert response.status == 200 and (await response.json())["parent"] == "support"
    response = await gateway.chat(model="tax")
    assert response.status == 404
    error = (await response.json())["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "model_not_found", "model", "not_found_error",
    )  # fmt: skip
    assert "support, sql, law" in error["message"] and not engine.seen


async def test_a_replica_without_the_adapter_is_passed_over_and_stays_in_use(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, serve_app: Any
) -> None:
    plain = 0

    async def lacks(request: web.Request) -> web.Response:
        nonlocal plain
        if (await request.json())["model"] == "sql":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        plain += 1
        return web.json_response({"choices": [{"message": {"content": "x"}}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", lacks)
    engine = await start_engine("has it")
    async with serve_app(app) as url:
        most = {"rates": {"all": 9.0}, "capacity": {"all": 9.0}}
        old, new = {"name": "old", "url": url} | most, replica_of(engine, rates={"all": 0.01})
        gateway = await start_gateway(pool(routing_of, old, new, adapters=ADAPTERS))
        for _ in range(3):
            response = await gateway.chat(model="sql")
            assert response.status == 200
            response = await gateway.chat()
            assert response.status == 200
        assert plain == 3, "it is left out for nobody else"
        gateway.offer(pool(routing_of, old, adapters=ADAPTERS))
        response = await gateway.chat(model="sql")
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert (await response.json())["error"]["code"] == "adapter_not_loaded"


def test_an_adapters_cache_is_its_own() -> None:
    raw = b'{"messages": [{"role": "user", "content": "' + b"a" * 5000 + b'"}]}'
    request = parse_request("/v1/chat/completions", raw)
    keys = [prompt_key(request, session, name) for session in (None, b"s") for name in (None, "x")]
    assert all(key is not None for key in keys)
    base, adapted, base_session, adapted_session = [key for key in keys if key]
    assert not set(base.blocks) & set(adapted.blocks)
    assert base_session.session != adapted_session.session
    assert base == prompt_key(request, None)


@pytest.mark.parametrize(("order", "sign"), [("lowFirst", -1), ("highFirst", 1)])
async def test_engines_that_order_by_priority_are_told_it(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, order: str, sign: int
) -> None:
    engine = await start_engine("one")
    gateway = await start_gateway(pool(routing_of, replica_of(engine), priority=order))
    for header, priority in (("7", 7), ("-3", -3), (None, 0)):
        headers = {} if header is None else {"x-motley-priority": header}
        for stream in (False, True):
            response = await gateway.chat(headers=headers, stream=stream, priority=-999)
            assert response.status == 200
            assert engine.seen[-1]["priority"] == sign * priority, "not what the client wrote"
    await gateway.post("/v1/embeddings", input="x")
    assert "priority" not in engine.seen[-1]


async def test_engines_that_do_not_are_never_sent_the_field(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engine = await start_engine("one")
    gateway = await start_gateway(pool(routing_of, replica_of(engine)))
    await gateway.chat(headers={"x-motley-priority": "7"})
    assert "priority" not in engine.seen[-1]


async def test_each_stage_of_a_cascade_is_told_in_its_own_order(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    small = await start_engine("small", token_probability=0.1)
    large = await start_engine("large")
    document = dict(routing_of(("small", [replica_of(small)]), ("large", [replica_of(large)])))
    first, last = document["stages"]
    document["stages"] = [first | {"priority": "lowFirst"}, last | {"priority": "highFirst"}]
    gateway = await start_gateway(document)
    response = await gateway.chat(headers={"x-motley-priority": "5"})
    assert response.status == 200
    assert (small.seen[0]["priority"], large.seen[0]["priority"]) == (-5, 5)


def test_the_routing_file_carries_both_and_refuses_an_unknown_order(routing_of: Any) -> None:
    table = parse_routing(pool(routing_of, adapters=ADAPTERS, priority="lowFirst"))
    assert parse_routing(routing_document(table)) == table
    with pytest.raises(RoutingError, match="priority"):
        parse_routing(pool(routing_of, priority="urgent"))
    with pytest.raises(RoutingError, match="adapters"):
        parse_routing(pool(routing_of, adapters={"sql": ""}))
