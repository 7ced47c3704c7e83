"""Lower thresholds while a later stage is busy, paid from quality above the floor.

Every policy that may be followed here has a certified lower bound q of its mean quality, and the
bounds hold together; so a sequence of requests on policies p1, p2, ... is certified to have a mean
quality of at least the mean of their bounds. The account holds

    slack = sum over requests so far of (q(policy followed) - floor), and never more.

It grows while the plan's own policies run above the floor, and a request follows a cheaper policy
only if the account stays at 0 or above with it. Slack that is not used fades with the window: that
only ever takes away. So at every moment the certified mean of all requests so far is at least the
floor, less what the plan's own mixture may be behind for a moment (its sequence keeps each policy's
count within one of its share).

The policy is changed before the first stage is asked: the choice looks at load, not at answers, for
a bound is about requests that were not picked by their score. Which requests come under load is
taken to say nothing about how hard they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from motley_planner.dispatch import Dispatcher, Policy, ReliefRule
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.quality_metrics import QualityMetrics

_SPREAD = 50.0  # requests over which what is in the account may be spent
_ROUNDING = 1e-12


class Account:
    """Quality above the floor, in requests' worth of 1.0."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.slack, self._now_s = 0.0, now_s
        self._at_s = now_s()

    def chosen(self, drawn: Policy, rule: ReliefRule, is_busy: bool) -> Policy:
        """The policy that a request follows in place of the one that was drawn; it is paid for."""
        self._fade(rule.window_s)
        policy = self._cheapest(drawn, rule) if is_busy else drawn
        assert policy.quality is not None, "a table with relief states every quality"
        self.slack += policy.quality - rule.floor
        return policy

    def _cheapest(self, drawn: Policy, rule: ReliefRule) -> Policy:
        """The one that accepts most among those whose bound the account can pay.

        It pays 1/50 of what it holds a request: many requests a little lower save more than few
        far lower, for the loss grows with each step down.
        """
        least = rule.floor - max(0.0, self.slack) / _SPREAD
        best = drawn
        for each in rule.policies:
            quality = each.quality or 0.0
            if quality < least - _ROUNDING or self.slack + quality - rule.floor < -_ROUNDING:
                continue
            if _accepts_more(each, drawn) and quality < (best.quality or 0.0):
                best = each
        return best

    def _fade(self, window_s: float) -> None:
        now_s = self._now_s()
        passed_s, self._at_s = now_s - self._at_s, now_s
        if self.slack > 0.0:
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
        policy = self.account.chosen(drawn, rule, is_busy)
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


def _accepts_more(one: Policy, drawn: Policy) -> bool:
    return all(limit <= drawn.thresholds[stage] for stage, limit in one.thresholds.items())
