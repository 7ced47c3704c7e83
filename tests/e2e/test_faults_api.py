"""Faults between the operator and the API server: refusals, silence, cuts, restarts, lost history.

Each fault strikes while a pool is being edited, beside another whose pods must stay as they are.
Bounds count from the end of the fault, except for black holes, whose end the operator must find.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from e2e.cluster.faults import WRITES, Fault
from e2e.demo_picture import Picture
from e2e.trial import CHANGES, FULL, NEW_PODS, SETTLE_S, Trial

pytestmark = [pytest.mark.e2e]
slow = pytest.mark.slow

REQUEST_S = 30.0  # after which a request without an answer is given up
SILENCE_S = 90.0  # after which a watch without a word, bookmarks included, is given up


def grown(trial: Trial, before: Picture, timeout_s: float = SETTLE_S) -> Picture:
    """The picture once the edited pool is served as edited; the bystander's pods are the same."""
    began = time.monotonic()
    after = trial.settle(timeout_s)
    print(f"settled {time.monotonic() - began:.1f} s after the fault")
    assert trial.pods_of(before, "bystander") == trial.pods_of(after, "bystander")
    assert len(trial.pods_of(after, "edited")) > len(trial.pods_of(before, "edited"))
    return after


def lost_node(trial: Trial, before: Picture) -> str:
    """A node of the edited pool on which the bystander has nothing, or else the emptiest."""
    counts = before.by_node()
    beside = {p.node for p in before.live().values() if p.key.endswith("bystander")}
    return min(counts, key=lambda name: (name in beside, counts[name], name))


ANSWERS = {
    "409": [Fault(CHANGES, WRITES, status=409, rate=0.4, seed=1)],
    "429": [Fault(CHANGES, WRITES, status=429, rate=0.4, seed=2)],
    "500": [Fault(CHANGES, WRITES, status=500, rate=0.4, seed=3)],
    "503": [Fault(CHANGES, WRITES, status=503, rate=0.4, seed=4)],
    "answers lost": [Fault(CHANGES, WRITES, swallow=True, rate=0.4, seed=5)],
    "connections cut": [Fault(CHANGES, WRITES, reset=True, rate=0.4, seed=6)],
    "all at once": [
        # With these seeds each of the four strikes among the first five writes.
        Fault(CHANGES, WRITES, status=409, rate=0.1, seed=57),
        Fault(CHANGES, WRITES, status=429, rate=0.1, seed=49),
        Fault(CHANGES, WRITES, status=500, rate=0.1, seed=31),
        Fault(CHANGES, WRITES, swallow=True, rate=0.1, seed=55),
        Fault("", ("GET",), status=503, rate=0.1, seed=15),
        Fault("", delay_s=0.2, rate=0.2, seed=12),
    ],
}


long = pytest.mark.skipif(not FULL, reason="MOTLEY_FAULTS=full runs each sort by itself")
OFTEN: dict[str, Any] = {"all at once": slow, "429": slow, "answers lost": slow}


@pytest.mark.parametrize(
    "answer", [pytest.param(name, marks=OFTEN.get(name, (slow, long))) for name in ANSWERS]
)
def test_writes_that_fail_now_and_then_are_made_in_the_end(trial: Trial, answer: str) -> None:
    before = trial.motley.look()
    faults = ANSWERS[answer]
    trial.proxy.faults[:] = faults
    trial.proxy.cut("watch=true")
    trial.edit("edited", 30)
    grown(trial, before)
    print(f"{answer}: {[one.hits for one in faults]} requests struck")
    assert all(one.hits for one in faults)


@slow
def test_a_write_that_is_never_answered_is_given_up_and_made_again(trial: Trial) -> None:
    before = trial.motley.look()
    fault = Fault(NEW_PODS, ("POST",), hang=True, times=1)
    trial.proxy.faults[:] = [fault]
    trial.edit("edited", 30)
    grown(trial, before, REQUEST_S + SETTLE_S)
    assert fault.hits == 1


@slow
def test_watches_that_are_cut_go_on_and_nothing_is_missed(trial: Trial) -> None:
    before = trial.motley.look()
    for rate in (12, 18, 24, 30):
        trial.edit("edited", rate)
        assert trial.proxy.cut("watch=true") > 5
        time.sleep(0.3)
    after = grown(trial, before)
    assert trial.proxy.cut("watch=true") > 5
    gone = lost_node(trial, after)
    trial.hands.remove_node(gone)
    trial.wait(lambda: gone not in trial.motley.look().by_node(), SETTLE_S, "the node is left")
    trial.settle()


@slow
def test_watches_that_fall_silent_are_given_up_and_what_was_missed_is_seen(trial: Trial) -> None:
    """The bound: no word for SILENCE_S ends a watch, then SETTLE_S to do what is to be done."""
    before = trial.settle()
    assert trial.proxy.freeze("watch=true") > 5
    began = time.monotonic()
    gone = lost_node(trial, before)
    trial.hands.remove_node(gone)
    trial.edit("edited", 30)

    def is_seen() -> bool:
        now = trial.motley.look()
        observed = now.resources[f"ServingPool/{trial.namespace}/edited"]
        return gone not in now.by_node() and observed.observed == observed.generation

    trial.wait(is_seen, SILENCE_S + SETTLE_S, "both are seen")
    print(f"seen after {time.monotonic() - began:.1f} s")
    trial.settle()


@slow
def test_what_vanished_while_nobody_watched_and_history_was_lost_leaves_no_ghost(
    trial: Trial,
) -> None:
    trial.edit("edited", 30)  # on several nodes
    before = grown(trial, trial.motley.look())
    down = Fault("watch=true", status=503)
    trial.proxy.faults[:] = [down]
    assert trial.proxy.cut("watch=true") > 5
    gone = lost_node(trial, before)
    trial.hands.remove_node(gone)
    shot = next(p for p in before.live().values() if p.node != gone)
    trial.hands.core.delete_namespaced_pod(shot.name, shot.namespace, grace_period_seconds=0)
    trial.hands.compact()
    assert down.hits
    told = trial.log().count("410 Expired")
    trial.proxy.faults.clear()
    trial.wait(lambda: trial.log().count("410 Expired") > told, SETTLE_S, "history is lost")
    # Each kind is listed anew on its own: the first 410 may be of another than nodes and pods.
    trial.wait(lambda: gone not in trial.motley.look().by_node(), SETTLE_S, "no pod on a ghost")
    after = trial.settle()
    assert gone not in after.by_node()
    assert shot.uid not in after.pods
    stayed = {u for u, p in before.live().items() if p.node != gone} - {shot.uid}
    assert stayed <= after.live().keys()


@slow
@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
def test_a_control_plane_that_dies_in_mid_edit_costs_no_pod(trial: Trial, program: str) -> None:
    before, killed = trial.motley.look(), threading.Event()

    def kill() -> None:
        trial.hands.kill_component(program)
        killed.set()

    trial.proxy.faults[:] = [Fault(NEW_PODS, ("POST",), skip=2, times=1, act=kill)]
    trial.edit("edited", 30)
    trial.wait(killed.is_set, 40.0, "the third new pod is asked for")
    time.sleep(3.0)
    trial.hands.restart_component(program)
    after = grown(trial, before)
    assert before.live().keys() <= after.live().keys()


@slow
@pytest.mark.skipif(not FULL, reason="half a minute of silence; MOTLEY_FAULTS=full runs it")
def test_while_the_api_server_is_away_nothing_is_decided_and_the_last_plan_stands(
    trial: Trial,
) -> None:
    before = trial.settle()
    away = Fault("", reset=True)
    trial.proxy.faults[:] = [away]
    assert trial.proxy.cut("") > 5
    gone = lost_node(trial, before)
    trial.hands.remove_node(gone)
    time.sleep(40.0)
    trial.assert_unshaken()
    assert away.hits
    trial.proxy.faults.clear()
    trial.wait(lambda: gone not in trial.motley.look().by_node(), SETTLE_S, "the node is left")
    after = trial.settle()
    stayed = {u for u, p in before.live().items() if p.node != gone}
    assert stayed <= after.live().keys()
