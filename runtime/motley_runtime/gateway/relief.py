"""Lower thresholds while a later stage is busy, paid from quality above the floor.

Every policy that may be followed here has a certified lower bound q of its mean quality, and the
bounds hold together; so a sequence of requests on policies p1, p2, ... is certified to have a mean
quality of at least the mean of their bounds. With Q the mean of the plan's own policies by their
shares, the account

    slack = sum over requests of (Q - floor) - sum of (q(policy drawn) - q(policy followed))

is never let below 0, and slack that is not used fades with the window, which only ever takes away. So
after every request the certified sum is at least

    floor x requests + sum of (q(policy drawn) - Q),

and the last sum is what the plan's own mixture is off by at that moment: nothing with one policy, and
with several at most one request of each, for its sequence keeps their counts within one.

The policy is changed before the first stage is asked: the choice looks at load, not at answers, for
a bound is about requests that were not picked by their score. Which requests come under load is
taken to say nothing about how hard they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from motley_planner.dispatch import Dispatcher, Policy, ReliefRule
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.quality_metrics import QualityMetrics

_SPREAD = 50.0  # requests over which what is in the account may be spent


class Account:
    """Quality above the floor, in requests' worth of 1.0."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.slack, self._now_s = 0.0, now_s
        self._at_s = now_s()

    def chosen(self, drawn: Policy, rule: ReliefRule, mean: float, is_busy: bool) -> Policy:
        """The policy that a request follows in place of the one that was drawn; it is paid for.

        `mean` is the certified quality of the plan's mixture.
        """
        self._fade(rule.window_s)
        gain = max(0.0, mean - rule.floor)
        allowance = gain + self.slack / _SPREAD
        self.slack += gain
        policy = self._cheapest(drawn, rule, min(allowance, self.slack)) if is_busy else drawn
        self.slack = max(0.0, self.slack - _cost(drawn, policy))
        return policy

    def _cheapest(self, drawn: Policy, rule: ReliefRule, most: float) -> Policy:
        """The one of least quality, so that accepts most, that costs no more than that.

        A request may cost what it gains and 1/50 of what is held: many requests a little lower save
        more than few far lower, for the loss grows with each step down.
        """
        best, paid = drawn, 0.0
        for each in rule.policies:
            cost = _cost(drawn, each)
            if paid < cost <= most and _accepts_more(each, drawn):
                best, paid = each, cost
        return best

    def _fade(self, window_s: float) -> None:
        now_s = self._now_s()
        passed_s, self._at_s = now_s - self._at_s, now_s
        self.slack *= math.exp(-passed_s / window_s) if window_s > 0.0 else 0.0


class Relief:
    """The account of one gateway, over all its plans."""

    def __init__(self, metrics: QualityMetrics, account: Account | None = None) -> None:
        self._metrics, self.account = metrics, account or Account()

    def followed(self, job: Job, rule: ReliefRule) -> Policy:
        """The policy of a job: the one that was drawn, or one that is easier on a busy stage."""
        drawn = job.policy
        assert drawn is not None, "a cascade draws a policy for each request"
        is_busy = later_is_busy(job.dispatcher, job.class_name, rule.busy_s)
        mean = mixture_quality(job.dispatcher.table.policies)
        policy = self.account.chosen(drawn, rule, mean, is_busy)
        if policy is not drawn:
            self._metrics.relaxed.labels(drawn.id).inc()
        self._metrics.slack.set(self.account.slack)
        return policy


def later_is_busy(dispatcher: Dispatcher, class_name: str, busy_s: float) -> bool:
    """Whether a stage after the first has more work than that while those before it have not."""
    now_s = time.monotonic()
    for index, stage in enumerate(dispatcher.table.stages):
        work_s = dispatcher.least_work_s(stage.name, class_name, now_s)
        if work_s > busy_s:
            return index > 0
    return False


def mixture_quality(policies: Sequence[Policy]) -> float:
    """The certified mean quality of policies at their shares."""
    total = sum(each.share for each in policies)
    return sum(each.share * (each.quality or 0.0) for each in policies) / total if total else 0.0


def _cost(drawn: Policy, followed: Policy) -> float:
    return (drawn.quality or 0.0) - (followed.quality or 0.0)


def _accepts_more(one: Policy, drawn: Policy) -> bool:
    return all(limit <= drawn.thresholds[stage] for stage, limit in one.thresholds.items())
