"""The policy mixture and the decision to escalate.

A plan says "0.7 of requests follow p17, 0.3 follow p18". Coin flips would meet that only on
average; the sequence here stays within one request of it at every prefix, for any number of
policies. It is Tijdeman's solution of the chairman assignment problem: after t requests policy j
is owed x_j = t * share_j - count_j; among those owed at least 1/(2n-2) the one that would
first be owed 1 - 1/(2n-2) goes next. Then |t * share_j - count_j| <= 1 - 1/(2n-2) always.

Source: R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_planner.dispatch.policy import Policy

_ROUNDING = 1e-9  # keeps an owed share that is exactly at the bound eligible in floating point


class PolicyMixer:
    """Draws policies in exactly the plan's proportions."""

    __slots__ = ("_bound", "_owed", "policies")

    def __init__(self, policies: Sequence[Policy], phase: int = 0) -> None:
        """A mixer that starts `phase` draws into its sequence, so that gateways differ."""
        self.policies = tuple(policy for policy in policies if policy.share > 0)
        self._owed = [0.0] * len(self.policies)
        self._bound = 1.0 / (2 * len(self.policies) - 2) if len(self.policies) > 1 else 0.0
        for _ in range(phase if len(self.policies) > 1 else 0):
            self.draw()

    def draw(self) -> Policy | None:
        """The next request's policy; None where the table has none."""
        if len(self.policies) < 2:
            return self.policies[0] if self.policies else None
        owed, best, best_deadline = self._owed, -1, float("inf")
        for index, policy in enumerate(self.policies):
            owed[index] += policy.share
            if owed[index] >= self._bound - _ROUNDING:
                deadline = (1.0 - self._bound - owed[index]) / policy.share
                if deadline < best_deadline:
                    best, best_deadline = index, deadline
        owed[best] -= 1.0
        return self.policies[best]


def policies_of(policies: Sequence[Policy], class_name: str) -> tuple[Policy, ...]:
    """The policies that a class's requests follow, with their shares of that class.

    What all classes share keeps its share; the rest of the class goes to its own policies, in
    their proportions. A class without any of its own follows those that all share.
    """
    alike = [policy for policy in policies if not policy.classes]
    own = [policy for policy in policies if class_name in policy.classes]
    common, mine = sum(p.share for p in alike), sum(p.share for p in own)
    rest = 1.0 - common if mine > 0 else 0.0
    scale = 1.0 if mine > 0 or common <= 0 else 1.0 / common
    shared = [replace(p, share=p.share * scale) for p in alike]
    return (*shared, *(replace(p, share=rest * p.share / mine) for p in own if mine > 0))


def accepts(score: float | None, threshold: float) -> bool:
    """Whether a stage's answer is returned: score >= threshold.

    An answer that could not be scored is never accepted: the quality floor comes first.
    """
    return score is not None and score >= threshold
