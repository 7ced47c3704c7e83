"""Whatever the gateway asks beside an answer keeps to the trust zones of gateway and client."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.runtime.test_gateway_branches import BranchEngine, Plan

EU = frozenset({"eu"})
SECRET = "only for eyes in the zone"
CURVE = {
    "points": [[0.0, 0.0], [1.0, 1.0]],
    "rows": 400,
    "accepted": 200,
    "quality": 0.9,
    "agreement": 0.9,
}


@pytest.fixture
async def judged(serve_app: Any, start_gateway: Any, routing_of: Any, tmp_path: Path) -> Any:
    """A pool in zone eu whose branches a reward pool judges, and what that pool was sent."""
    async with AsyncExitStack() as stack:

        async def start(zone: str | None, key: str, **settings: Any) -> Any:
            (tmp_path / "alice").write_text(key)
            engine = BranchEngine(default=Plan(20))
            engine.rewards = lambda text: 0.1
            app = web.Application()
            app.router.add_post("/v1/chat/completions", engine.handle)
            app.router.add_post("/pooling", engine.judge)
            url = await stack.enter_async_context(serve_app(app))
            planned = {"rates": {"all": 1.0}, "capacity": {"all": 2.0}, "trust_zone": "eu"}
            document = routing_of(("main", [{"name": "r0", "url": url, **planned}]))
            score = {"type": "Reward", "url": url, "model": "prm"}
            document["stages"][0]["branches"] = {
                "samples": 2,
                "stop_after": 2,
                "prune": {"below": 0.5, "most": 1, "every_tokens": 4},
                "score": score | ({} if zone is None else {"trust_zone": zone}),
            }
            gateway = await start_gateway(document, api_keys_dir=tmp_path, **settings)
            response = await gateway.chat(SECRET, headers={"authorization": "Bearer key-a"})
            assert response.status == 200
            return gateway, engine, response.headers["x-motley-branches"]

        yield start


@pytest.mark.parametrize(
    ("zone", "key", "gateways"),
    [
        (None, "key-a\ntrust_zones=eu\n", None),
        ("", "key-a\ntrust_zones=eu\n", None),
        ("us", "key-a\ntrust_zones=eu\n", None),
        (None, "key-a\n", EU),
        ("us", "key-a\ntrust_zones=eu,us\n", EU),
        ("us", "key-a\ntrust_zones=eu\n", frozenset({"eu", "us"})),
    ],
)
async def test_a_reward_pool_outside_the_zones_is_sent_nothing_and_no_branch_is_given_up(
    judged: Any, zone: str | None, key: str, gateways: frozenset[str] | None
) -> None:
    gateway, engine, branches = await judged(zone, key, trust_zones=gateways)
    assert (engine.judged, branches) == ([], "2/2/0")
    assert await gateway.metric("motley_gateway_unscored_branches_total") >= 2


@pytest.mark.parametrize(
    ("zone", "key", "gateways"),
    [
        ("eu", "key-a\ntrust_zones=eu\n", EU),
        ("eu", "key-a\n", EU),
        (None, "key-a\n", None),
        ("us", "key-a\n", None),
    ],
)
async def test_a_reward_pool_inside_the_zones_is_asked(
    judged: Any, zone: str | None, key: str, gateways: frozenset[str] | None
) -> None:
    _, engine, branches = await judged(zone, key, trust_zones=gateways)
    assert engine.judged[0]["messages"][0]["content"] == SECRET and branches == "2/1/1"


@pytest.mark.parametrize(
    "fields",
    [
        {"estimator": {"type": "SelfVerify", "verifier": "large"}},
        {"watch": {"references": {"small": CURVE}}, "label": "LastStage"},
        {"watch": {"references": {"small": CURVE}}, "label": "Verdict"},
        {"estimator": {"type": "SelfConsistency", "samples": 3}},
    ],
    ids=["verdict", "label by the last stage", "label by a verdict", "samples"],
)
@pytest.mark.parametrize("by", ["client", "gateway"])
async def test_no_call_beside_an_answer_leaves_the_zone(
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
    fields: dict[str, Any],
    by: str,
) -> None:
    inside, outside = await start_engine("in"), await start_engine("out")
    large = await start_engine("large")
    fields = dict(fields)
    if "label" in fields:
        shadow = {"share": 1.0, "label": fields.pop("label"), "per_minute": 60000}
        fields["watch"] = {**fields["watch"], "shadow": shadow | {"compare": "Text"}}
    document = routing_of(
        ("small", [replica_of(inside, trust_zone="eu"), replica_of(outside, trust_zone="us")]),
        ("large", [replica_of(large)]),
        policies=[{"id": "p", "share": 1.0, "thresholds": {"small": 0.0}}],
        **fields,
    )
    gateway = await start_gateway(document, trust_zones=EU if by == "gateway" else None)
    headers = {"x-motley-trust-zones": "eu"} if by == "client" else {}
    for _ in range(3):
        await gateway.chat(SECRET, headers=headers)
    if "watch" in fields:
        given_up = 'motley_gateway_shadow_skipped_total{reason="failed"}'

        async def all_given_up() -> bool:
            return bool(await gateway.metric("motley_gateway_shadow_skipped_total{") == 3.0)

        await eventually(all_given_up)
        assert await gateway.metric(given_up) >= 1.0
    assert inside.seen and not outside.seen and not large.seen
