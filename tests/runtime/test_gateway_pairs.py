"""Prefill on one replica, decode on another: the handshakes field by field, and what fails in them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from tests.runtime.phase_engines import BOTH, CHAT, STREAM, Cluster, Make, document, entry


@BOTH
@STREAM
async def test_a_request_is_prefilled_on_one_replica_and_answered_by_another(
    pair: Any, protocol: str, stream: bool, eventually: Any
) -> None:
    two = await pair(protocol)
    asked = {"max_tokens": 50, "temperature": 0.5, "min_tokens": 3, "max_completion_tokens": 50}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": False}}
    assert (await two.said(**asked)).startswith("d")
    await two.at_rest(eventually)
    assert two.cluster.wrong == []
    (first,), (second,) = two.prefill.seen, two.decode.seen
    assert two.prefill.paths == two.decode.paths == [CHAT]
    assert two.prefill.ids == two.decode.ids  # one request id for both legs
    told = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
    carried = {key: value for key, value in second.items() if key not in told}
    assert carried == asked | {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "org/main",
    }
    if protocol == "nixl":
        assert two.cluster.caches == {}  # fetched
        assert first["temperature"] == 0.5
    else:
        assert first == second
    for leg in ("prefill", "decode"):
        head = f'motley_gateway_legs_total{{leg="{leg}",outcome="answered",stage="main"}}'
        assert await two.gateway.metric(head) == 1


@BOTH
async def test_a_completion_of_tokens_is_paired_too(pair: Any, protocol: str) -> None:
    two = await pair(protocol)
    response = await two.gateway.post("/v1/completions", prompt=[1, 2, 3], max_tokens=4)
    assert response.status == 200
    assert len(two.prefill.seen) == len(two.decode.seen) == 1
    assert two.cluster.wrong == []


async def test_a_room_is_never_used_twice(pair: Any) -> None:
    two = await pair("bootstrap")
    assert set(await asyncio.gather(*(two.said() for _ in range(60)))) == {"d"}
    assert len(two.cluster.used_rooms) == 60
    assert two.cluster.used_rooms.most_common(1)[0][1] == 1
    assert two.cluster.wrong == []


async def test_the_bootstrap_port_is_the_routings(
    make: Make, start_gateway: Any, routing_of: Any, cluster: Cluster
) -> None:
    p = await make("p", "prefill", "bootstrap", bootstrap_port=9001)
    d = await make("d", "decode", "bootstrap", bootstrap_port=9001)
    made = document(routing_of, "bootstrap", [entry(p)], [entry(d)], bootstrap_port=9001)
    assert (await (await start_gateway(made)).chat()).status == 200
    assert cluster.wrong == []


async def test_both_sglang_legs_are_under_way_at_once(pair: Any, eventually: Any) -> None:
    two = await pair("bootstrap", prefill={"delay_s": 0.5})
    asking = asyncio.ensure_future(two.said())
    await eventually(lambda: two.prefill.at_work == two.decode.at_work == 1)
    assert await asking == "d"


async def test_the_nixl_decode_leg_waits_for_its_prefill(pair: Any, eventually: Any) -> None:
    two = await pair("nixl", prefill={"delay_s": 0.3})
    asking = asyncio.ensure_future(two.said())
    await eventually(lambda: two.prefill.at_work == 1)
    assert two.decode.seen == []
    assert await asking == "d"


@BOTH
async def test_a_client_cannot_name_a_cache_or_a_host_of_its_own(pair: Any, protocol: str) -> None:
    two = await pair(protocol)
    theirs = {"do_remote_prefill": True, "remote_host": "evil", "remote_port": 1}
    asked = {"kv_transfer_params": theirs, "bootstrap_host": "evil", "bootstrap_room": 7}
    assert await two.said(**asked) == "d"
    assert two.cluster.wrong == []
    assert "evil" not in json.dumps(two.prefill.seen + two.decode.seen)


PREFILL_FAILS = [
    pytest.param({"drops": True}, id="it drops the connection"),
    pytest.param({"status": 500}, id="it answers 500"),
    pytest.param({"status": 503}, id="it is busy"),
    pytest.param({"delay_s": 30.0}, id="it is too slow"),
]


@BOTH
@STREAM
@pytest.mark.parametrize("trouble", PREFILL_FAILS)
async def test_a_failed_prefill_leg_sends_the_request_to_a_colocated_replica(
    pair: Any, protocol: str, stream: bool, trouble: dict[str, Any], eventually: Any
) -> None:
    two = await pair(protocol, prefill=trouble, colocated=True, prefill_s=0.3)
    assert (await two.said(stream=stream)).startswith("whole")
    await two.at_rest(eventually)
    assert two.gateway.gateway.live.current.failing("main", 0.0) == 1  # only the prefill replica
    assert await two.gateway.metric("motley_gateway_retries_total") == 1
    # The circuit is open: the next one does not ask it again.
    asked = len(two.prefill.seen)
    assert (await two.said(stream=stream)).startswith("whole")
    assert len(two.prefill.seen) == asked


@BOTH
@STREAM
@pytest.mark.parametrize("trouble", [{"drops": True}, {"status": 500}])
async def test_a_decode_leg_that_fails_before_the_first_byte_goes_to_a_colocated_replica(
    pair: Any, protocol: str, stream: bool, trouble: dict[str, Any], eventually: Any
) -> None:
    two = await pair(protocol, decode=trouble, colocated=True)
    assert (await two.said(stream=stream)).startswith("whole")
    await two.at_rest(eventually)
    assert two.whole.seen[0].keys().isdisjoint({"kv_transfer_params", "bootstrap_room"})


async def test_without_colocated_replicas_a_vllm_decode_replica_reads_the_prompt_itself(
    pair: Any, eventually: Any
) -> None:
    two = await pair("nixl", prefill={"status": 500})
    assert await two.said(max_tokens=9) == "d"
    assert "kv_transfer_params" not in two.decode.seen[0]
    assert two.decode.seen[0]["max_tokens"] == 9
    head = 'motley_gateway_legs_total{leg="alone",outcome="answered",stage="main"}'
    assert await two.gateway.metric(head) == 1
    await two.at_rest(eventually)


async def test_an_sglang_pair_that_fails_is_followed_by_another_pair(
    make: Make, start_gateway: Any, routing_of: Any, cluster: Cluster
) -> None:
    bad = await make("bad", "prefill", "bootstrap", status=500)
    good = await make("good", "prefill", "bootstrap")
    d = await make("d", "decode", "bootstrap")
    made = document(routing_of, "bootstrap", [entry(bad, 9.0), entry(good, 0.1)], [entry(d, 9.0)])
    gateway = await start_gateway(made)
    response = await gateway.chat()
    assert response.status == 200
    assert (len(bad.seen), len(good.seen)) == (1, 1)
    assert gateway.gateway.live.current.in_flight() == 0
    assert cluster.wrong == []


@STREAM
async def test_where_every_way_fails_the_client_is_told(
    pair: Any, stream: bool, eventually: Any
) -> None:
    two = await pair("nixl", prefill={"status": 500}, decode={"status": 500})
    assert await two.said(stream=stream) == "upstream_failed"
    await two.at_rest(eventually)


WRONG_PARAMS = [
    pytest.param("a text", id="not an object"),
    pytest.param({}, id="nothing in it"),
    pytest.param({"do_remote_prefill": "true"}, id="a text for a boolean"),
    pytest.param({"remote_block_ids": None}, id="no blocks"),
    pytest.param({"remote_host": ""}, id="no host"),
    pytest.param({"remote_port": "5600"}, id="a text for a port"),
    pytest.param({"remote_port": True}, id="a boolean for a port"),
    pytest.param({"remote_engine_id": 7}, id="a number for an engine"),
]
RIGHT = {
    "do_remote_prefill": True,
    "remote_engine_id": "e",
    "remote_block_ids": [1],
    "remote_host": "h",
    "remote_port": 5600,
}


@pytest.mark.parametrize("params", WRONG_PARAMS)
async def test_parameters_that_cannot_be_right_never_reach_a_decode_replica(
    pair: Any, params: Any, eventually: Any
) -> None:
    told = RIGHT | params if isinstance(params, dict) and params else params
    two = await pair("nixl", prefill={"params": told})
    assert await two.said() == "d"
    assert "kv_transfer_params" not in two.decode.seen[0]
    head = 'motley_gateway_legs_total{leg="prefill",outcome="handshake",stage="main"}'
    assert await two.gateway.metric(head) == 1
    await two.at_rest(eventually)


async def test_a_prefill_that_kept_no_cache_is_no_failure(pair: Any) -> None:
    """vLLM answers null where the first token was the last one."""
    two = await pair("nixl", prefill={"params": None})
    assert await two.said() == "d"
    assert "kv_transfer_params" not in two.decode.seen[0]
    assert two.gateway.gateway.live.current.failing("main", 0.0) == 0


@BOTH
async def test_a_refused_request_is_refused_by_the_replica_that_would_answer(
    pair: Any, protocol: str, eventually: Any
) -> None:
    two = await pair(protocol, prefill={"status": 400}, decode={"status": 400, "delay_s": 0.1})
    response = await two.gateway.chat()
    assert response.status == 400
    assert (await response.json())["error"]["message"] == "no"
    assert two.gateway.gateway.live.current.failing("main", 0.0) == 0
    await two.at_rest(eventually)


@BOTH
async def test_a_decode_replica_that_dies_in_mid_stream_ends_the_stream_with_an_error(
    pair: Any, protocol: str, eventually: Any
) -> None:
    two = await pair(protocol, decode={"dies_after_chunks": 2}, colocated=True)
    response = await two.gateway.chat(stream=True)
    text = await response.text()
    assert "d0 " in text and "upstream_failed" in text and "[DONE]" not in text
    assert two.whole.seen == []  # something was sent: nothing is tried again
    await two.at_rest(eventually)
    assert two.gateway.gateway.live.current.failing("main", 0.0) == 1


@BOTH
@pytest.mark.parametrize("slow", ["prefill", "decode"])
@STREAM
async def test_a_client_that_leaves_ends_both_legs(
    pair: Any, protocol: str, slow: str, stream: bool, eventually: Any
) -> None:
    two = await pair(protocol, **{slow: {"delay_s": 30.0}})
    asking = asyncio.ensure_future(two.gateway.chat(stream=stream))
    engine = two.prefill if slow == "prefill" else two.decode
    await eventually(lambda: engine.at_work == 1)
    asking.cancel()
    await asyncio.wait({asking})
    await two.at_rest(eventually)
    assert engine.aborted == 1
    assert two.gateway.gateway.live.current.failing("main", 0.0) == 0


@BOTH
async def test_a_client_that_leaves_in_mid_stream_ends_the_decode_leg(
    pair: Any, protocol: str, eventually: Any
) -> None:
    two = await pair(protocol, decode={"chunk_delay_s": 1.0})
    response = await two.gateway.chat(stream=True)
    await response.content.readany()
    response.close()
    await two.at_rest(eventually)
    assert two.decode.aborted == 1


UNPAIRABLE = [
    pytest.param(CHAT, {"messages": [{"role": "user", "content": "x"}], "n": 2}, id="two choices"),
    pytest.param("/v1/completions", {"prompt": ["a", "b"]}, id="two prompts"),
    pytest.param("/v1/completions", {"prompt": "a", "echo": True}, id="the prompt again"),
    pytest.param("/v1/embeddings", {"input": "a"}, id="embeddings"),
]


@pytest.mark.parametrize(("path", "body"), UNPAIRABLE)
async def test_what_no_handshake_is_made_for_goes_another_way(
    pair: Any, path: str, body: dict[str, Any]
) -> None:
    vllm = await pair("nixl")
    assert (await vllm.gateway.post(path, **body)).status == 200
    assert vllm.prefill.seen == [] and "kv_transfer_params" not in vllm.decode.seen[0]


@pytest.mark.parametrize(("path", "body"), UNPAIRABLE)
async def test_sglang_pairs_alone_refuse_what_no_handshake_is_made_for(
    pair: Any, path: str, body: dict[str, Any]
) -> None:
    sglang = await pair("bootstrap")
    response = await sglang.gateway.post(path, **body)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "unsupported_by_plan"
    beside = await pair("bootstrap", colocated=True)
    assert (await beside.gateway.post(path, **body)).status == 200
    assert len(beside.whole.seen) == 1


async def test_pairs_follow_the_flows_of_the_plan(
    make: Make, start_gateway: Any, start_engine: Any, routing_of: Any, cluster: Cluster
) -> None:
    """Three flows and a colocated replica, in the proportions 4 : 2 : 1 : 1, within one request."""
    p = {zone: await make(f"p{zone}", "prefill", "nixl") for zone in "ab"}
    d = {zone: await make(f"d{zone}", "decode", "nixl") for zone in "ab"}
    whole = await start_engine("whole", text="whole")
    planned = {("a", "a"): 4.0, ("a", "b"): 2.0, ("b", "b"): 1.0}
    made = document(
        routing_of,
        "nixl",
        [entry(p["a"], 6.0, "a"), entry(p["b"], 1.0, "b")],
        [entry(d["a"], 4.0, "a"), entry(d["b"], 3.0, "b")],
        entry(whole, 1.0),
        flows=[
            {"class": "all", "from": a, "to": b, "rate": rate} for (a, b), rate in planned.items()
        ],
    )
    gateway = await start_gateway(made)
    for _ in range(80):
        assert (await gateway.chat()).status == 200
    assert cluster.wrong == []
    seen = Counter(
        (body["kv_transfer_params"]["remote_engine_id"][-1], zone)
        for zone, engine in d.items()
        for body in engine.seen
    )
    for ends, rate in planned.items():
        assert abs(seen[ends] - 10 * rate) <= 1
    assert abs(len(whole.seen) - 10) <= 1


async def test_replicas_outside_a_clients_trust_zones_take_no_leg(
    make: Make, start_gateway: Any, start_engine: Any, routing_of: Any
) -> None:
    p = await make("p", "prefill", "nixl")
    d = await make("d", "decode", "nixl")
    whole = await start_engine("whole")
    zones = [entry(p, trust_zone="out"), entry(d, trust_zone="in"), entry(whole, trust_zone="in")]
    gateway = await start_gateway(document(routing_of, "nixl", [zones[0]], [zones[1]], zones[2]))
    response = await gateway.chat(headers={"x-motley-trust-zones": "in"})
    assert response.status == 200
    assert p.seen == []


async def test_a_plan_that_puts_phases_apart_takes_over_without_a_failed_request(
    make: Make, start_gateway: Any, start_engine: Any, routing_of: Any, eventually: Any
) -> None:
    whole = await start_engine("whole", text="whole", delay_s=0.3)
    p, d = await make("p", "prefill", "nixl"), await make("d", "decode", "nixl")
    gateway = await start_gateway(routing_of(("main", [entry(whole)])))
    before = [asyncio.ensure_future(gateway.chat()) for _ in range(10)]
    await eventually(lambda: len(whole.seen) == 10)
    assert gateway.offer(document(routing_of, "nixl", [entry(p)], [entry(d)]))
    after = [asyncio.ensure_future(gateway.chat()) for _ in range(10)]
    assert {r.status for r in await asyncio.gather(*before, *after)} == {200}
    assert (len(whole.seen), len(d.seen)) == (10, 10)
    assert d.cluster.wrong == []


async def test_a_replica_that_changes_its_role_takes_over_without_a_failed_request(
    make: Make, start_gateway: Any, routing_of: Any, eventually: Any
) -> None:
    """What it prefills when the plan comes it ends; nothing is sent to it in its old role after."""
    p, d = await make("p", "prefill", "nixl"), await make("d", "decode", "nixl")
    both = await make("both", "both", "nixl", delay_s=0.3)
    gateway = await start_gateway(document(routing_of, "nixl", [entry(p), entry(both)], [entry(d)]))
    before = [asyncio.ensure_future(gateway.chat()) for _ in range(10)]
    await eventually(lambda: len(p.seen) + len(both.seen) == 10)
    prefilled = len(both.seen)
    assert prefilled > 0 and both.at_work == prefilled
    assert gateway.offer(document(routing_of, "nixl", [entry(p)], [entry(d), entry(both)]))
    after = [asyncio.ensure_future(gateway.chat()) for _ in range(20)]
    assert {r.status for r in await asyncio.gather(*before, *after)} == {200}
    legs = Counter(bool(body["kv_transfer_params"]["do_remote_decode"]) for body in both.seen)
    assert legs[True] == prefilled and legs[False] > 0
    assert len(d.seen) + legs[False] == 30
    assert d.cluster.wrong == []
