"""Watches that say nothing: dead ones are given up, idle ones are not given up again and again."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import kopf
import pytest

from motley_operator.connection import KINDS, Client
from motley_operator.facts import reflector, silence
from motley_operator.facts.collection import Collection
from motley_operator.facts.nodes import parse_node
from motley_operator.facts.reflector import Reflector, Scope
from motley_operator.facts.silence import Silence
from motley_operator.handlers import harden

HOUR_S = 3600.0
MOST_ENDS = 12  # watches of a kind that may end in an hour, kopf's included
BOOKMARK_S = 60.0  # k8s.io/apiserver, storage/cacher/cacher.go: defaultBookmarkFrequency
# etcd's reports of progress: as kubeadm asks for it, two between, and its default with the longest jitter.
PROGRESS_S = (5.0, 120.0, 300.0, 660.0)
_settings = kopf.OperatorSettings()
harden(_settings)
KOPF = _settings.watching


def ends_of_an_idle_kind(
    progress_s: float, watch_s: float, limits: Silence, until_s: float
) -> list[float]:
    """When watches of a kind end of which nothing is ever written.

    As the API server's cache has it: each minute of a watch a bookmark with the last reported
    progress, if that is newer than what the watch began at; and a last one 2 s before its end.
    """
    ends, now, version = [], 0.5, 0
    while now < until_s:
        limits.begins()
        began, heard = now, now
        times = [BOOKMARK_S * n for n in range(1, int(watch_s / BOOKMARK_S) + 1)]
        seen = version
        for at in (began + s for s in (*times, watch_s - 2.0)):
            if at > heard + limits.limit_s():
                break
            if (told := math.floor(at / progress_s)) > version:
                heard, seen = at, told
                limits.marked()
        now = min(began + watch_s, heard + limits.limit_s())
        if now < began + watch_s:
            limits.given_up()
        version = seen
        ends.append(now)
        now += 0.1
    return ends


class Kopf(Silence):
    """kopf has one limit, and learns nothing."""

    def limit_s(self) -> float:
        return KOPF.inactivity_timeout


@pytest.mark.parametrize("progress_s", PROGRESS_S)
def test_watches_of_an_idle_kind_end_seldom_whatever_etcd_says(progress_s: float) -> None:
    hours = 24
    kopfs_s = KOPF.server_timeout
    assert kopfs_s is not None
    shortest_s = float(reflector._WATCH_S[0])
    ends = ends_of_an_idle_kind(progress_s, shortest_s, Silence(), hours * HOUR_S)
    ends += ends_of_an_idle_kind(progress_s, kopfs_s, Kopf(), hours * HOUR_S)
    by_hour = [sum(HOUR_S * n <= end < HOUR_S * (n + 1) for end in ends) for n in range(hours)]
    assert max(by_hour) <= MOST_ENDS, by_hour
    assert max(by_hour[1:]) <= 6, "only what the server ends"


def test_a_limit_that_learns_nothing_would_end_them_again_and_again() -> None:
    """So the model above can fail: the limit as it was, on etcd's default."""

    class Fixed(Silence):
        def given_up(self) -> None: ...

    ends = ends_of_an_idle_kind(PROGRESS_S[-1], float(reflector._WATCH_S[0]), Fixed(), HOUR_S)
    assert len(ends) > MOST_ENDS


def test_the_longest_silence_is_longer_than_etcds_and_the_next_bookmarks() -> None:
    assert silence.LONGEST_S > max(PROGRESS_S) + BOOKMARK_S + 1.0
    assert silence.SILENCE_S > BOOKMARK_S + 1.0


def test_the_time_before_the_first_bookmark_doubles_and_stays() -> None:
    limits = Silence()
    for wanted in (90.0, 180.0, 360.0, 720.0, 900.0, 900.0):
        limits.begins()
        assert limits.limit_s() == wanted
        limits.given_up()
    limits.begins()
    limits.marked()
    assert limits.limit_s() == 90.0
    limits.given_up()  # dead: no reason to wait longer for another
    limits.begins()
    assert limits.limit_s() == 900.0


# --- on a wire


class Followed:
    """The nodes as one reflector has them."""

    def __init__(self, client: Client) -> None:
        self.nodes: Collection[Any] = Collection(parse_node, lambda old, new: None)
        self.reflector = Reflector(client, self.nodes, Scope(KINDS["Node"]), lambda: None)

    def names(self) -> set[str]:
        return {node.name for node in self.nodes.values()}


async def until(met: Callable[[], bool], within_s: float = 5.0) -> float:
    """Waits for it; the time at which it was so."""
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return time.monotonic()


@asynccontextmanager
async def followed(api: Any, client: Client) -> AsyncIterator[Followed]:
    made = Followed(client)
    task = asyncio.create_task(made.reflector.run())
    try:
        await until(lambda: api.calls["watch nodes"] == 1)
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_silent_watch_is_given_up_and_opened_again(
    api: Any, client: Client, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENCE_S", 0.3)
    async with followed(api, client) as view:
        api.silent = True
        api.put("Node", node("unheard"))
        await asyncio.sleep(0.1)
        assert view.names() == set()
        api.silent = False
        await until(lambda: view.names() == {"unheard"})


async def test_each_silence_before_a_bookmark_gives_the_next_watch_longer(
    api: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watches(number: int) -> bool:
        return bool(api.calls["watch nodes"] >= number)

    monkeypatch.setattr(silence, "SILENCE_S", 0.15)
    async with followed(api, client):
        opened = [await until(partial(watches, n)) for n in range(2, 5)]
    lasted = [later - sooner for sooner, later in itertools.pairwise(opened)]
    assert lasted[0] >= 0.3 and lasted[1] >= 0.6


async def test_one_that_was_patient_is_strict_again_after_the_first_bookmark(
    api: Any, client: Client, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENCE_S", 30.0)  # what it has learned before
    async with followed(api, client) as view:
        monkeypatch.setattr(silence, "SILENCE_S", 0.2)
        api.put("Node", node("heard"))
        await until(lambda: view.names() == {"heard"})
        await asyncio.sleep(0.5)
        assert api.calls["watch nodes"] == 1, "an event may be one of before the watch"
        api.bookmark()
        await asyncio.sleep(0.05)
        api.silent = True
        api.put("Node", node("unheard"))
        await asyncio.sleep(0.02)
        api.silent = False
        await until(lambda: view.names() == {"heard", "unheard"})
