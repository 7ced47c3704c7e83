from __future__ import annotations

from typing import Any

import pytest

from motley_operator import lifecycle
from motley_operator.api import RLJob, parse
from motley_operator.domain.actions import DeletePod
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.lifecycle import TRANSITIONS, Phase, Signal
from motley_operator.testing import gpu_node, job
from motley_operator.testing.operated import Operated

NOW = 1_800_000_000.0


def a_job(conditions: list[tuple[str, str, str]] | None = None, **changes: Any) -> RLJob:
    status = changes.pop("status", {})
    made = [
        {"type": t, "status": s, "reason": r, "lastTransitionTime": "2026-11-21T12:00:00Z"}
        for t, s, r in conditions or ()
    ]
    model = parse({**job(**changes), "status": {"conditions": made, **status}})
    assert isinstance(model, RLJob)
    return model


def a_pod(role: str, phase: str = "Running", ready: bool = True, **labels: str) -> PodFacts:
    labels = {"motley.dev/role": role, "motley.dev/replica": role, **labels}
    annotations = {"motley.dev/attempt": labels.pop("attempt", "0")}
    return PodFacts(
        "team-a",
        role,
        role,
        labels,
        annotations,
        "h0",
        True,
        phase,
        "",
        ready,
        False,
        Room(),
        0.0,
        "u",
    )


def rollouts(count: int, **changes: Any) -> list[PodFacts]:
    return [a_pod("rollout", **{"motley.dev/replica": f"r{i}"}, **changes) for i in range(count)]


def test_every_phase_has_a_row_and_the_final_ones_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(Phase)
    for phase, row in TRANSITIONS.items():
        assert set(row) == (set() if phase in lifecycle.FINAL else set(Signal))


@pytest.mark.parametrize(
    ("spec", "pods", "expected"),
    [
        ({}, [], Phase.PENDING),
        ({}, [a_pod("trainer", ready=False)], Phase.STARTING),
        ({}, [a_pod("trainer"), *rollouts(1)], Phase.STARTING),
        ({}, [a_pod("trainer"), *rollouts(2)], Phase.RUNNING),
        ({}, [a_pod("trainer", "Failed"), *rollouts(2)], Phase.RESTARTING),
        ({"backoffLimit": 0}, [a_pod("trainer", "Failed")], Phase.FAILED),
        ({}, [a_pod("trainer", "Succeeded"), *rollouts(2)], Phase.COMPLETE),
        ({"suspend": True}, [a_pod("trainer")], Phase.SUSPENDED),
        ({"suspend": True}, [a_pod("trainer", "Succeeded")], Phase.COMPLETE),
    ],
    ids=[
        "no pods",
        "a trainer that is not ready",
        "too few rollouts",
        "gang and rollouts ready",
        "a trainer failed",
        "failed more often than allowed",
        "the trainer succeeded",
        "suspended",
        "succeeded before it could be suspended",
    ],
)
def test_a_new_job_is_where_its_pods_say(
    spec: dict[str, Any], pods: list[PodFacts], expected: Phase
) -> None:
    assert lifecycle.phase_of(a_job(**spec), pods, NOW) == expected


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_an_ended_job_never_comes_back(kind: str) -> None:
    ended = a_job([(kind, "True", "x")])
    assert lifecycle.phase_of(ended, [a_pod("trainer"), *rollouts(2)], NOW) == Phase(kind)


def test_a_suspended_job_goes_on_when_let_go() -> None:
    assert lifecycle.phase_of(a_job([("Suspended", "True", "x")]), [], NOW) == Phase.PENDING


def test_a_job_that_ran_and_lost_its_pods_waits_for_new_ones() -> None:
    assert lifecycle.phase_of(a_job([("Ready", "True", "Running")]), [], NOW) == Phase.PENDING


def test_a_failure_is_counted_once_however_often_it_is_seen() -> None:
    failed = a_pod("trainer", "Failed", attempt="1")
    assert lifecycle.failures(a_job(status={"failures": 1}), [failed]) == 2
    assert lifecycle.failures(a_job(status={"failures": 2}), [failed]) == 2


def test_the_deadline_counts_from_the_first_start() -> None:
    late = a_job(activeDeadlineSeconds=60, status={"startTime": "2027-01-15T07:58:00Z"})
    assert lifecycle.phase_of(late, [a_pod("trainer"), *rollouts(2)], NOW) == Phase.FAILED
    fresh = a_job(activeDeadlineSeconds=600, status={"startTime": "2027-01-15T07:58:00Z"})
    assert lifecycle.phase_of(fresh, [a_pod("trainer"), *rollouts(2)], NOW) == Phase.RUNNING


def test_a_suspended_job_gives_its_trainer_the_grace_that_the_reference_promises() -> None:
    operated = Operated(0)
    operated.world.add_node(*(gpu_node(f"h{i}") for i in range(2)))
    key = operated.world.add(job())
    operated.run()
    (trainer,) = (p for p in operated.world.engine_pods(key) if "trainer" in p.name)
    operated.edit(key, suspend=True)
    gone = [a for a in operated.cycle().actions if isinstance(a, DeletePod)]
    assert [a.grace_seconds for a in gone if a.name == trainer.name] == [None]  # its own
    grace_s = operated.world.specs[trainer.namespace, trainer.name]["terminationGracePeriodSeconds"]
    text = RLJob.model_fields["spec"].annotation.model_fields["suspend"].description
    assert f"grace period ({grace_s} s " in text
