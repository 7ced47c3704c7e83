"""What must hold of the live demo's answers, and its figures before and after the floor is raised."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from e2e.demo_api import Document
from e2e.live_manifests import STAGES
from e2e.live_story import Live, Told

LEAST = 5  # answers of a plan, below which its share says nothing
SURE = 3.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Phase:
    """The answers under one floor; shares 0..1, latencies in seconds."""

    floor: float
    answers: int
    right: float
    to_second: float  # of those whose way was not barred by an engine that was away
    planned: float  # share that the plans would send to the second model, of all questions
    p50_s: float
    p95_s: float

    @property
    def text(self) -> str:
        """In one line."""
        return (
            f"floor {100 * self.floor:.0f} %: {self.answers} answers, {100 * self.right:.0f} % right, "
            f"{100 * self.to_second:.0f} % to the second model (planned {100 * self.planned:.0f} %), "
            f"P50 {self.p50_s:.2f} s, P95 {self.p95_s:.2f} s"
        )


def judge(live: Live, told: Told) -> None:
    """Says what holds and what does not."""
    judge_answers(live, told)
    before, after = (_policies(told.plans.get(plan, {})) for plan in plans_of(told))
    live.view.expect(before != after, "the thresholds are others after the floor was raised")
    judge_paths(live, told)


def judge_answers(live: Live, told: Told) -> None:
    """Whether each question was answered, and each pod lived as told."""
    view, answers = live.view, told.answers
    failed = [one for one in answers if one.is_failed]
    view.title(f"{len(answers)} questions")
    for one in failed:
        view.line(f"at {one.sent_s:.1f} s: {one.status} {one.said}")
    streams = [one for one in failed if one.is_stream and one.status == 200]
    view.expect(len(failed) == len(streams), "no request failed but streams that had begun")
    view.expect(not live.nodes.failures, f"every pod lived as told {live.nodes.failures[:3]}")
    view.fact("questions came as in", told.arrivals)
    view.fact("questions, streams cut with their pod", f"{len(answers)}, {len(streams)}")
    for stage, name in STAGES.items():
        count = sum(stage in stages_of(document) for document in told.plans.values())
        used = f"in {count} of {len(told.plans)} plans"
        view.fact(f"{name}, {100 * live.calibrated.qualities[stage]:.0f} % right alone", used)
    view.fact("plans that answered", str(len({one.plan for one in answers if one.plan})))


def judge_paths(live: Live, told: Told) -> None:
    """Whether paths and shares are those of the plans, and the floors hold."""
    view = live.view
    known = [one for one in told.answers if one.plan in told.plans and not one.is_failed]
    strange = [one for one in known if not is_of(one.path, told.plans[one.plan])]
    for one in strange:
        view.line(f"at {one.sent_s:.1f} s: {one.path} by {_policies(told.plans[one.plan])}")
    view.expect(not strange, "each answer went the way of a policy of the plan that it names")
    for phase in phases(live.calibrated.table, told):
        view.line(phase.text)
        room = SURE * sqrt(phase.planned * (1 - phase.planned) / phase.answers)
        near = abs(phase.to_second - phase.planned) <= room + 1 / phase.answers
        view.expect(near, "the mixture of paths is the plan's, within chance")
        room = SURE * sqrt(phase.floor * (1 - phase.floor) / phase.answers)
        holds = phase.right >= phase.floor - room
        view.expect(holds, f"the floor of {100 * phase.floor:.0f} % holds, within chance")
        view.fact(f"floor {100 * phase.floor:.1f} %", phase.text.partition(": ")[2])


def stages_of(routing: Document) -> set[str]:
    """Stages that a plan has replicas of."""
    return {str(stage["name"]) for stage in routing["stages"] if stage["replicas"]}


def plans_of(told: Told) -> tuple[str, str]:
    """The plan when the floor was raised, and the first one that answered under the new floor."""
    known = list(told.plans)
    later = known[known.index(told.raised_from) + 1 :] if told.raised_from in known else []
    return told.raised_from, next(iter(later), "")


def phases(table: str, told: Told) -> list[Phase]:
    """What the answers were under each floor, by the plan that each names."""
    scores = [float(row["first:score"]) for row in csv.DictReader(table.splitlines())]
    known = list(told.plans)
    cut = known.index(told.raised_from) + 1 if told.raised_from in known else len(known)
    found = []
    for floor, plans in zip(told.floors, (known[:cut], known[cut:]), strict=True):
        mine = [one for one in told.answers if one.plan in plans and not one.is_failed]
        if len(mine) < LEAST:
            continue
        # While an engine is away, requests go past it: that is no choice of the plan's.
        whole = [one for one in mine if "failed" not in one.path] or mine
        expected = sum(share_of(scores, told.plans[one.plan]) for one in whole) / len(whole)
        took = sorted(one.took_s for one in mine)
        found.append(
            Phase(
                floor,
                len(mine),
                sum(one.is_right for one in mine) / len(mine),
                sum("second" in one.path for one in whole) / len(whole),
                expected,
                took[len(took) // 2],
                took[int(0.95 * len(took))],
            )
        )
    return found


def share_of(scores: Sequence[float], routing: Document) -> float:
    """Share of questions with these scores that a routing sends to the second model."""
    total = 0.0
    for share, limit in _policies(routing):
        total += share * sum(score < limit for score in scores) / len(scores)
    return total


def is_of(path: str, routing: Document) -> bool:
    """Whether a way through the cascade is that of one of a routing's policies.

    `first:0.4120,second`; a stage that could not answer is passed over whatever the policy.
    """
    first, _, second = path.partition(",")
    name, _, score = first.partition(":")
    limits = [limit for _, limit in _policies(routing)]
    if name == "second":
        return any(limit > 1.0 for limit in limits)
    try:
        value = float(score)
    except ValueError:
        return second.startswith("second")
    rounding = 1e-4
    if second:
        return any(value < limit + rounding and limit <= 1.0 for limit in limits)
    return any(value >= limit - rounding for limit in limits)


def _policies(routing: Document) -> list[tuple[float, float]]:
    """Share and the first model's threshold of each policy."""
    found = routing.get("policies", ())
    return [(float(one["share"]), float(one["thresholds"]["first"])) for one in found]
