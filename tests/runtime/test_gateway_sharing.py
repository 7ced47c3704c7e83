"""Rates, concurrency, fair turns, priorities, shedding, trust zones."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from motley_runtime.gateway.clients import Client, read_client
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.fair_share import FairShare
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.options import Sharing


def share_of(in_flight: int = 1, waiting: int = 100, wait_s: float = 5.0, **more: Any) -> FairShare:
    return FairShare(Sharing(in_flight, waiting, wait_s), Metrics(), **more)


async def served(share: FairShare, clients: list[tuple[Client, int]], turns: int) -> list[str]:
    """Who got the first turns when all asked at once and one request is at work at a time."""
    order: list[str] = []

    async def one(client: Client, priority: int) -> None:
        async with share.place(client, priority):
            order.append(client.name)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(one(*each)) for each in clients]
    while len(order) < turns:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (share.at_work, share.waiting) == (0, 0)
    return order[:turns]


async def test_waiting_clients_get_turns_in_proportion_to_their_weights() -> None:
    heavy, light = Client("heavy", weight=3.0), Client("light")
    # The light client asks first and for five times as much; it is served a quarter all the same.
    crowd = [(light, 0)] * 100 + [(heavy, 0)] * 90
    counts = Counter(await served(share_of(waiting=300), crowd, 81))
    assert abs(counts["heavy"] - 60) <= 2 and abs(counts["light"] - 20) <= 2, counts


async def test_a_client_that_comes_late_does_not_wait_behind_anothers_backlog() -> None:
    early, late = Client("early"), Client("late")
    order = await served(share_of(), [(early, 0)] * 50 + [(late, 0)], 4)
    assert "late" in order


async def test_higher_priority_goes_first() -> None:
    who = [(Client("a"), 0)] * 5 + [(Client("b"), 7)] * 3
    order = await served(share_of(), who, 8)
    assert order == ["a", *["b"] * 3, *["a"] * 4], "the first a was at work already"


async def test_a_full_queue_sheds_the_least_important_whoever_came_first() -> None:
    share, held = share_of(waiting=2), asyncio.Event()

    async def one(priority: int) -> str:
        try:
            async with share.place(Client(str(priority)), priority):
                await held.wait()
            return "served"
        except GatewayError as error:
            assert (error.status, error.retry_after_s) == (503, 1)
            return "shed"

    tasks = []
    for priority in (0, 1, 2, 3, 1):
        tasks.append(asyncio.create_task(one(priority)))
        await asyncio.sleep(0)
    held.set()
    assert await asyncio.gather(*tasks) == ["served", "shed", "served", "served", "shed"]
    assert (share.at_work, share.waiting) == (0, 0)


async def test_who_waits_too_long_is_sent_away_and_leaves_no_trace() -> None:
    share = share_of(wait_s=0.02)
    async with share.place(Client("a"), 0):
        with pytest.raises(GatewayError) as refused:
            async with share.place(Client("b"), 0):
                raise AssertionError("there is no place")
    assert refused.value.status == 503 and (share.at_work, share.waiting) == (0, 0)
    async with share.place(Client("b"), 0):
        assert share.at_work == 1


async def test_places_are_never_lost_however_turns_and_cancellations_fall_together() -> None:
    import random

    chance, share, most = random.Random(5), share_of(in_flight=3, waiting=40, wait_s=0.004), 0

    async def one() -> None:
        nonlocal most
        try:
            async with share.place(Client(str(chance.randrange(4))), chance.randrange(3)):
                most = max(most, share.at_work)
                await asyncio.sleep(chance.random() * 0.002)
        except GatewayError:
            pass

    tasks = []
    for _ in range(600):
        tasks.append(asyncio.create_task(one()))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.002)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (share.at_work, share.waiting) == (0, 0) and most == 3


def test_a_rate_is_a_bucket_that_fills_with_time_and_tells_when_to_come_again() -> None:
    now = 100.0
    share = share_of(now_s=lambda: now)
    client = Client("a", requests_per_minute=30.0, burst=2.0)
    share.charge(client)
    share.charge(client)
    with pytest.raises(GatewayError) as refused:
        share.charge(client)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    now += 2.0
    share.charge(client)
    with pytest.raises(GatewayError):
        share.charge(client)
    now += 3600.0
    share.charge(client)
    share.charge(client)
    with pytest.raises(GatewayError):
        share.charge(client)


@pytest.mark.parametrize("gateways", [1, 2, 3])
def test_gateways_share_a_clients_rate_and_burst(gateways: int) -> None:
    now = 100.0
    shares = [share_of(now_s=lambda: now) for _ in range(gateways)]
    for share in shares:
        share.gateways = gateways
    client = Client("a", requests_per_minute=60.0, burst=6.0)

    def let_in() -> int:
        count = 0
        for share in shares * 20:
            with suppress(GatewayError):
                share.charge(client)
                count += 1
        return count

    assert let_in() == 6
    now += 6.0
    assert let_in() == 6
    now += 0.5
    assert let_in() == 0
    with pytest.raises(GatewayError) as refused:
        shares[0].charge(client)
    assert (f"one of {gateways} gateways" in refused.value.message) == (gateways > 1)


async def test_gateways_share_a_clients_concurrency_and_a_request_of_many_branches_goes_alone() -> (
    None
):
    share = share_of(in_flight=20)
    share.gateways = 3
    client = Client("a", concurrency=8)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(share.place(client, 0))
        with pytest.raises(GatewayError) as refused:
            await stack.enter_async_context(share.place(client, 0))
        assert (refused.value.status, refused.value.code) == (429, "concurrency_limit_exceeded")
    async with share.place(client, 0, places=8):
        with pytest.raises(GatewayError):
            await share.place(client, 0).__aenter__()
    with pytest.raises(GatewayError):
        await share.place(client, 0, places=9).__aenter__()
    async with share.place(Client("b", concurrency=1), 0):
        pass


async def test_two_gateways_let_no_more_through_than_the_file_says(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> None:
    (tmp_path / "alice").write_text("a\nrequests_per_minute=1\nburst=4\n")
    document = routing_of(("main", [replica_of(await start_engine("r0"))]), gateways=2)
    both = [await start_gateway(document, api_keys_dir=tmp_path) for _ in range(2)]
    answers = [(await both[i % 2].chat(headers=key("a"))).status for i in range(12)]
    assert answers == [200] * 4 + [429] * 8
    alone = await start_gateway({**document, "gateways": 1}, api_keys_dir=tmp_path)
    assert [(await alone.chat(headers=key("a"))).status for _ in range(5)] == [200] * 4 + [429]


def test_a_clients_file_holds_keys_and_settings() -> None:
    text = (
        "# team a\nkey-1\n\nconcurrency = 4\nweight=2.5\ntrust_zones=eu, dmz\nOdd=key\npadded==\n"
    )
    client, hashes = read_client("alice", text)
    zones = frozenset({"eu", "dmz"})
    assert client == Client("alice", concurrency=4, weight=2.5, trust_zones=zones)
    assert len(hashes) == 3, "a key may hold an equals sign, and base64 ends with some"
    for wrong in ("concurrency=0", "weight=-1", "requests_per_minute=many", "burst=inf"):
        with pytest.raises(ValueError, match="alice, line 2: "):
            read_client("alice", f"key\n{wrong}")


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("concurency=1", "did you mean concurrency?"),
        ("trust_zone = eu", "did you mean trust_zones?"),
        ("rate=5", "settings are requests_per_minute, burst"),
    ],
)
def test_a_misspelt_setting_is_no_key(line: str, fix: str) -> None:
    with pytest.raises(ValueError, match="bob, line 2: ") as refused:
        read_client("bob", f"key-b\n{line}\n")
    assert fix in str(refused.value) and line not in str(refused.value)


@pytest.fixture
def keyed(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> Any:
    async def start(files: dict[str, str], zones: tuple[str, ...] = ("",), **settings: Any) -> Any:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        engines = [await start_engine(f"r{i}", delay_s=0.05) for i in range(len(zones))]
        replicas = [
            replica_of(e, **({"trust_zone": z} if z else {}))
            for e, z in zip(engines, zones, strict=True)
        ]
        document = routing_of(("main", replicas))
        gateway = await start_gateway(document, api_keys_dir=tmp_path, **settings)
        return gateway, engines

    return start


def key(name: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}", **headers}


async def test_a_client_over_its_limits_is_told_to_come_again(keyed: Any) -> None:
    gateway, [engine] = await keyed(
        {"alice": "a\nconcurrency=2\n", "bob": "b\nrequests_per_minute=60\nburst=1\n"}
    )
    answers = await asyncio.gather(*(gateway.chat(headers=key("a")) for _ in range(5)))
    assert Counter(each.status for each in answers) == {200: 2, 429: 3}
    refused = next(each for each in answers if each.status == 429)
    assert refused.headers["retry-after"] == "1"
    error = (await refused.json())["error"]
    assert (error["code"], error["type"]) == ("concurrency_limit_exceeded", "rate_limit_error")
    assert [(await gateway.chat(headers=key("b"))).status for _ in range(2)] == [200, 429]
    assert len(engine.seen) == 3
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="rate"}') == 1
    assert (await gateway.chat(headers=key("a"))).status == 200, "its places are free again"


async def test_a_broken_key_file_changes_nothing(
    keyed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley_runtime.gateway.auth._RESCAN_S", 0.0)
    gateway, _ = await keyed({"alice": "a\n"})
    assert (await gateway.chat(headers=key("a"))).status == 200
    for broken in (b"b\nweight=none\n", b"\xff\xfe"):
        (tmp_path / "bob").write_bytes(broken)
        assert (await gateway.chat(headers=key("a"))).status == 200
        assert (await gateway.chat(headers=key("b"))).status == 401


async def test_a_client_that_leaves_the_queue_frees_its_place(keyed: Any, eventually: Any) -> None:
    gateway, [engine] = await keyed({"alice": "a\n"}, sharing={"in_flight": 1})
    engine.delay_s = 0.3
    first = asyncio.create_task(gateway.chat(headers=key("a")))
    await eventually(lambda: engine.seen)
    second = asyncio.create_task(gateway.chat(headers=key("a")))
    await eventually(lambda: gateway.gateway.share.waiting == 1)
    second.cancel()
    await eventually(lambda: gateway.gateway.share.waiting == 0)
    assert (await first).status == 200
    assert len(engine.seen) == 1
    await eventually(lambda: gateway.gateway.in_flight == 0)


async def test_a_file_with_a_misspelt_setting_opens_nothing_and_the_last_good_one_stays(
    keyed: Any, tmp_path: Path, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, _ = await keyed({"bob": "b\nconcurrency=1\n"})
    assert (await gateway.chat(headers=key("b"))).status == 200
    (tmp_path / "bob").write_text("c\nconcurency=1\n")

    async def is_refused() -> bool:
        await gateway.chat(headers=key("b"))
        said = [r.fields["reason"] for r in caplog.records if r.message == "API keys not read"]  # type: ignore[attr-defined]
        return any("bob, line 2" in each and "concurrency" in each for each in said)

    await eventually(is_refused)
    for wrong in ("concurency=1", "c"):
        assert (await gateway.chat(headers=key(wrong))).status == 401
    assert (await gateway.chat(headers=key("b"))).status == 200


async def test_a_clients_data_stays_in_its_trust_zones(keyed: Any) -> None:
    files = {"alice": "a\ntrust_zones=eu\n", "bob": "b\n", "carol": "c\ntrust_zones=moon\n"}
    gateway, [nowhere, eu, us] = await keyed(files, zones=("", "eu", "us"))
    for _ in range(6):
        assert (await gateway.chat(headers=key("a"))).status == 200
    assert (len(nowhere.seen), len(eu.seen), len(us.seen)) == (0, 6, 0)
    headers = key("b", **{"x-motley-trust-zones": "us"})
    assert (await gateway.chat(headers=headers)).status == 200 and len(us.seen) == 1
    for refused in (key("c"), key("a", **{"x-motley-trust-zones": "us"})):
        response = await gateway.chat(headers=refused)
        assert response.status == 503
        assert "trust zones" in (await response.json())["error"]["message"]


async def test_a_failing_replica_in_the_zone_does_not_open_the_others(keyed: Any) -> None:
    gateway, [eu, us] = await keyed({"alice": "a\ntrust_zones=eu\n"}, zones=("eu", "us"))
    eu.drops_connections = 99
    assert (await gateway.chat(headers=key("a"))).status == 502
    assert not us.seen


async def test_a_gateway_of_one_zone_knows_no_other_replica(keyed: Any) -> None:
    gateway, [eu, us] = await keyed(
        {"bob": "b\n"}, zones=("eu", "us"), trust_zones=frozenset({"eu"})
    )
    for _ in range(4):
        assert (await gateway.chat(headers=key("b"))).status == 200
    assert (len(eu.seen), len(us.seen)) == (4, 0)


async def test_a_request_may_lower_its_priority_but_not_raise_it(keyed: Any) -> None:
    gateway, [engine] = await keyed({"alice": "a\n"}, sharing={"in_flight": 1})
    order: list[int] = []

    async def ask(priority: int) -> None:
        headers = key("a", **{"x-motley-priority": str(priority)})
        assert (await gateway.chat(headers=headers)).status == 200
        order.append(priority)

    tasks = [asyncio.create_task(ask(0))]
    while not engine.seen:
        await asyncio.sleep(0.005)
    for priority in (-5, 0, 9):
        tasks.append(asyncio.create_task(ask(priority)))
        while gateway.gateway.share.waiting < len(tasks) - 1:
            await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert order == [0, 0, 9, -5], "9 counts as the client's own 0, and came later"
    response = await gateway.chat(headers=key("a", **{"x-motley-priority": "nan"}))
    assert response.status == 400
