"""Alive is who is not stuck; ready is who has a whole view, leader or not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from motley_operator import health
from motley_operator.connection import ApiError, Client
from motley_operator.health import Health
from motley_operator.leadership import Leadership
from motley_operator.main import Operator
from motley_operator.metrics import Metrics
from motley_operator.settings import Settings


class Stuck:
    """Stands in for a cycle that has been running for some seconds."""

    def __init__(self, seconds: float) -> None:
        self.settings, self.seconds = Settings(stuck_after_s=5.0), seconds

    def stuck_for_s(self) -> float:
        return self.seconds


def asking(seconds: float = 0.0, *lacking: str, loop: Any = None) -> Health:
    found: Any = Stuck(seconds)
    return Health(found, lambda: list(lacking), loop or asyncio.get_running_loop())


@pytest.fixture
async def other_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    # What was asked while it was blocked is answered first.
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop))
    loop.call_soon_threadsafe(loop.stop)
    await asyncio.to_thread(thread.join)
    loop.close()


async def test_a_cycle_that_takes_too_long_is_told_by_liveness_alone() -> None:
    assert await asking(4.0).alive() == []
    assert await asking(6.0).alive() == ["a cycle has been running for 6 s"]
    assert await asking(6.0).ready() == []


async def test_what_the_view_lacks_is_told_by_readiness_alone() -> None:
    assert await asking(0.0, "nodes: not read yet").alive() == []
    assert await asking(0.0, "nodes: not read yet").ready() == ["nodes: not read yet"]


async def test_both_tell_a_blocked_loop(
    other_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_ANSWER_S", 0.1)
    judged = asking(loop=other_loop)
    assert await judged.alive() == await judged.ready() == []
    other_loop.call_soon_threadsafe(time.sleep, 0.6)
    (told,), (said,) = await judged.alive(), await judged.ready()
    assert told == said == "the event loop is blocked for 0 s"


async def test_an_operator_is_ready_once_every_list_is_read_and_the_lease_was_looked_at(
    api: Any, client: Client
) -> None:
    api.refusing = True
    settings = Settings(leader_election=True, lease="motley-system/motley")
    operator = Operator(settings, client, Metrics())
    assert operator.leadership is not None
    following = asyncio.create_task(operator.store.run())
    try:
        await asyncio.sleep(0.2)
        lacking = operator._lacks()
        assert any(line.startswith("nodes: ") for line in lacking)
        assert "the lease motley-system/motley: not read yet" in lacking
        api.refusing = False
        async with asyncio.timeout(15.0):
            while operator.store.problems():
                await asyncio.sleep(0.02)
        assert operator._lacks() == ["the lease motley-system/motley: not read yet"]
        # Somebody else leads: one that stands by is as ready.
        leader = Leadership(client, ("motley-system", "motley"), "the other")
        await leader.attempt()
        await operator.leadership.attempt()
        assert leader.may_write() and not operator.leadership.may_write()
        assert operator._lacks() == []
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_lease_that_may_not_be_read_is_told_in_the_servers_words() -> None:
    class Forbidding:
        async def send(self, *_: Any) -> Any:
            raise ApiError(403, "Forbidden", "may not get leases", None)

    server: Any = Forbidding()
    hopeless = Leadership(server, ("motley-system", "motley"), "me")
    await hopeless.attempt()
    assert hopeless.problem() == (
        "the lease motley-system/motley: 403 Forbidden: may not get leases"
    )
