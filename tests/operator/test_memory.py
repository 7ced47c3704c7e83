"""What nobody uses goes back: cycles of references, and pages between what stays."""

from __future__ import annotations

import ctypes
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from motley_operator import memory
from motley_operator.memory import Tidying

MIB = 2**20


@pytest.fixture(autouse=True)
def set_aside_no_longer() -> Iterator[None]:
    """What a test sets aside is collected after it as before."""
    yield
    gc.unfreeze()


class Knot:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.me = self


class Clock:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_knot_that_was_in_use_during_a_collection_of_the_young_goes_later() -> None:
    clock = Clock()
    tidying = Tidying(clock, trim=lambda _: 0)
    knot = Knot()
    seen = weakref.ref(knot)
    tidying.after_cycle()  # in use: it counts as old from here on
    del knot
    tidying.after_cycle()
    assert seen() is not None, (
        "a collection of the young does not look at it: the test proves nothing"
    )
    clock.now += memory._LONGEST_S
    tidying.after_cycle()
    assert seen() is None


def test_collecting_everything_takes_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, collected = Clock(), list[int]()

    def collect(generation: int = 2) -> int:
        collected.append(generation)
        clock.now += 0.5 if generation == 2 else 0.0  # as on thousands of nodes
        return 0

    monkeypatch.setattr(gc, "collect", collect)
    tidying = Tidying(clock, trim=lambda _: 0)
    for _ in range(1000):
        clock.now += 1.0
        tidying.after_cycle()
    full, share = collected.count(2), memory._SHARE + memory._WHOLE_SHARE
    assert 2 <= full <= 2 + share * clock.now / 0.5


def test_what_came_since_the_store_was_set_aside_is_collected_before_the_store_is_again() -> None:
    clock = Clock()
    tidying = Tidying(clock, trim=lambda _: 0)
    of_the_store = Knot()
    clock.now = memory._LEAST_S
    tidying.after_cycle()
    assert gc.get_freeze_count() > 0
    later = Knot()
    seen = [weakref.ref(of_the_store), weakref.ref(later)]
    tidying.after_cycle()  # both are in use
    del of_the_store, later
    clock.now += memory._LEAST_S
    tidying.after_cycle()
    assert [ref() is None for ref in seen] == [False, True]
    clock.now += memory._WHOLE_LONGEST_S
    tidying.after_cycle()
    assert seen[0]() is None


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_free_pages_between_what_stays_go_back_to_the_system() -> None:
    made = [bytearray(4000) for _ in range(20_000)]  # below the size that malloc maps by itself
    stays = made[::50]
    del made
    held = rss_bytes()
    Tidying().after_cycle()
    assert rss_bytes() < held - 40 * MIB
    assert len(stays) == 400


def test_a_system_whose_libc_cannot_trim_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    Tidying().after_cycle()
