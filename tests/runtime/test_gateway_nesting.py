"""Bodies nested deep: served up to the limit, refused by name beyond it, and never an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.runtime.test_gateway_fuzz import CHAT, DEEP, MARK

from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.nesting import MOST_LEVELS
from motley_runtime.gateway.openai_api import parse_request

DEPTHS = (1, 246, 247, 248, 249, 250, 251, 255, 400, 900, 1010, 1030, 9000)


def nested(depth: int, place: str, opened: str = "[", closed: str = "]") -> bytes:
    return place.replace("$", opened * depth + f'"{MARK}"' + closed * depth).encode()


@pytest.mark.parametrize(("place", "levels", "path"), DEEP)
@pytest.mark.parametrize("form", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("estimator", ["LogProb", "SelfVerify"])
async def test_nesting_is_served_up_to_the_limit_and_refused_beyond_it(
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    place: str,
    levels: int,
    path: str,
    form: tuple[str, str],
    estimator: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stages = [(name, [replica_of(await start_engine(name))]) for name in ("small", "large")]
    document = routing_of(*stages, estimator={"type": estimator})
    document["classes"].append({"name": "long", "prompt_tokens": 9000, "output_tokens": 10})
    for stage in document["stages"]:
        stage["replicas"][0] |= {"rates": {"all": 1, "long": 1}, "capacity": {"all": 1, "long": 1}}
    gateway = await start_gateway(document)
    for depth in DEPTHS:
        async with gateway.http.post(gateway.url + path, data=nested(depth, place, *form)) as got:
            said = await got.json()
        if depth + levels <= MOST_LEVELS:
            assert got.status == 200, (depth, said)
        else:
            assert (got.status, said["error"]["code"]) == (400, "too_deep"), depth
            assert str(MOST_LEVELS) in said["error"]["message"]
    records = "\n".join(str(vars(record)) for record in caplog.records)
    assert "unexpected error" not in records and MARK not in records


def test_brackets_beside_each_other_or_in_text_are_no_depth() -> None:
    message = {"role": "user", "content": "[{" * 400}
    many = [message, *({"role": "user", "content": [{"type": "text", "text": "x"}]},) * 400]
    raw = json.dumps({"messages": many}).encode()
    assert parse_request(CHAT, raw).body["messages"][0] == message


def test_a_body_of_brackets_only_is_refused_at_once() -> None:
    with pytest.raises(GatewayError) as refused:
        parse_request(CHAT, b"[" * (4 * 2**20) + b"]" * (4 * 2**20))
    assert (refused.value.status, refused.value.code) == (400, "too_deep")
