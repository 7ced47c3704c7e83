"""An operator that is killed at each of its writes, whose solver dies, whose lease is odd."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from e2e import demo_operator
from e2e.cluster import processes
from e2e.demo_api import Refused
from e2e.trial import FULL, SETTLE_S, Trial

pytestmark = pytest.mark.e2e
slow = pytest.mark.slow

FAILOVER_S = 10.0
LEASE_S = 8  # a busy machine renews it late
SOLVER_S = 30.0  # a plan is there at the latest so long after the solver's processes live again
LEASE = ("Lease", demo_operator.NAMESPACE, "motley")


def killed_at(trial: Trial, number: int, rate: float, *, is_done: bool) -> bool:
    """An edit to a rate, the operator dying at its n-th write for it; whether it came so far."""
    before = trial.motley.look()
    grows = rate > 10
    fault = trial.kill_at(number, is_done=is_done)
    trial.edit("edited", rate)
    began = time.monotonic()
    with suppress(AssertionError):
        trial.motley.wait(lambda: fault.hits > 0, 5.0, "the write")
    trial.proxy.faults.clear()
    if fault.hits:
        trial.wait(lambda: not trial.is_alive(), 5.0, "the operator's end")
        trial.start()
    mine = trial.pods_of(before, "edited")

    def is_carried_out() -> bool:
        now = trial.pods_of(trial.motley.look(), "edited")
        return now > mine if grows else now < mine

    # What was there when it grew goes on, and what is there when it has shrunk was there before.
    trial.wait(is_carried_out, SETTLE_S, "the edit is carried out")
    after = trial.settle()
    print(f"write {number} to {rate:g}/s, {fault.hits}: {time.monotonic() - began:.1f} s")
    assert is_carried_out()
    assert trial.pods_of(before, "bystander") == trial.pods_of(after, "bystander")
    return fault.hits > 0


def killed_at_each_write(trial: Trial, numbers: Iterable[int], *, is_done: bool) -> tuple[int, int]:
    """Edits up and down, the operator dying at the n-th write of each; the last n that struck each."""
    last = {30.0: 0, 6.0: 0}
    for number in numbers:
        struck = {rate: killed_at(trial, number, rate, is_done=is_done) for rate in last}
        last |= {rate: number for rate in last if struck[rate]}
        if not any(struck.values()):
            break
    return last[30.0], last[6.0]


def test_an_operator_killed_after_its_status_and_before_its_pods_converges(trial: Trial) -> None:
    """The status is written and nothing else: the next one does the rest, and moves nobody."""
    assert killed_at_each_write(trial, (2,), is_done=False) == (2, 2)


@slow
@pytest.mark.parametrize("is_done", [False, True], ids=["before it", "after it"])
def test_an_operator_killed_at_its_nth_write_converges(trial: Trial, is_done: bool) -> None:
    numbers = range(1, 100) if FULL else (1, 7) if is_done else (4,)
    assert min(killed_at_each_write(trial, numbers, is_done=is_done)) >= 4


@contextmanager
def hunted(trial: Trial, strike: Callable[[int], object]) -> Iterator[set[int]]:
    """Strikes each of the solver's processes as soon as it is seen; the pids of those struck so far."""
    struck: set[int] = set()
    over = threading.Event()

    def hunt() -> None:
        while not over.is_set():
            for pid in trial.workers():
                strike(pid)
                struck.add(pid)
            time.sleep(0.02)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield struck
    finally:
        over.set()
        hunter.join()


def delayed(trial: Trial, strike: Callable[[int], object]) -> set[int]:
    """An edit while solvers are struck for some seconds, carried out afterwards; the pids of those."""
    before = trial.motley.look()
    with hunted(trial, strike) as struck:
        trial.edit("edited", 30)
        time.sleep(6.0)
        during = trial.motley.look()
    assert before.live().keys() <= during.live().keys()
    after = trial.settle(SOLVER_S)
    assert len(after.live()) > len(before.live())
    assert before.live().keys() <= after.live().keys()
    return struck


@slow
def test_a_solver_that_is_killed_whenever_it_is_seen_delays_a_plan_and_breaks_none(
    trial: Trial,
) -> None:
    assert delayed(trial, trial.end_worker)


@slow
def test_a_solver_that_hangs_is_given_up_at_its_deadline(trial: Trial) -> None:
    before, workers = trial.motley.look(), trial.workers()
    assert workers, "no solver process waits for a job"
    for pid in workers:
        trial.end_worker(pid, signal.SIGSTOP)
    trial.edit("edited", 30)
    after = trial.settle(SOLVER_S)
    assert set(workers) - set(trial.workers()), "none of those that hang was asked"
    assert len(after.live()) > len(before.live())
    assert before.live().keys() <= after.live().keys()


@slow
def test_a_solver_without_memory_is_replaced(trial: Trial) -> None:
    """One that has loaded its solver has room for a small fleet's job: new ones are hit as they load."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process can be set on Linux only")

    starved: set[int] = set()

    def starve(pid: int) -> None:
        with suppress(OSError):  # before its exec it is the operator, and a zombie has no command
            if b"solver.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
                starved.add(pid)

    idle = trial.workers()
    assert idle, "no solver process waits for a job"
    for pid in idle:
        trial.end_worker(pid)
    delayed(trial, starve)
    assert starved and not starved & set(trial.workers())


@slow
def test_a_lease_is_judged_by_its_changes_and_never_by_the_time_written_on_it(
    trial: Trial,
) -> None:
    """A stranger's clock is an hour slow, then an hour fast; then the stranger is gone."""
    trial.kill()
    trial.flags = ("--leader-elect",)
    before = trial.settle()
    with suppress(Refused):
        trial.api.delete(*LEASE)
    try:
        hold(trial, -3600)
        trial.start()
        began = time.time()
        for seconds in 5 * [-3600] + 5 * [3600]:  # longer than LEASE_S in all
            hold(trial, seconds)
            trial.edit("edited", 30)
            time.sleep(1.0)
            assert trial.writes_of_operator(began) == []
        ended = time.monotonic()
        trial.wait(lambda: "stranger" not in holder(trial), LEASE_S + FAILOVER_S, "it leads")
        print(f"took the lease {time.monotonic() - ended:.1f} s after its last renewal")
        after = trial.settle()
        assert before.live().keys() < after.live().keys()
    finally:
        trial.flags = ()
        process = trial.motley.process
        assert process is not None
        processes.stop(process, grace_s=5.0)
        trial.api.delete(*LEASE)
        trial.start()
        trial.settle()


def hold(trial: Trial, clock_error_s: float) -> None:
    """A stranger takes or renews the lease, by a clock that is wrong."""
    when = datetime.now(UTC) + timedelta(seconds=clock_error_s)
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    kind, namespace, name = LEASE
    trial.api.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "holderIdentity": "stranger",
                "leaseDurationSeconds": LEASE_S,
                "renewTime": stamp,
                "acquireTime": stamp,
            },
        }
    )


def holder(trial: Trial) -> str:
    """Who the lease says leads."""
    found = trial.api.get(*LEASE) or {}
    return str((found.get("spec") or {}).get("holderIdentity") or "")
