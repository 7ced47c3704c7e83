"""What the API server said of pods, kept from cycle to cycle, and when it is asked again.

Theory of operation. A pod that is made is its own question; one that something has to make way for
is tried first (changes/trials.py). Answers are facts of the next cycle. A yes holds for a minute:
rules change, and each replica of a rollout deserves to be asked for. A no is asked again after pauses
that double, since whoever mends a rule tells nobody here.

Nothing of this need survive a restart: the next process asks once more before it stops anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from motley_operator.apply import DONE
from motley_operator.domain.actions import CreatePod, Manifest, Outcome, TryPod
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.verdicts import Refusal, Sort, Verdict, sort_of

ADMITTED_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 320.0
_LONGEST_WORDS = 640  # of a condition's 1,024 characters; the fix has to find room, too


@dataclass(slots=True)
class _Known:
    """The latest verdict on a sort, and the last pause before it was asked again."""

    verdict: Verdict
    pause_s: float = 0.0


class Refusals:
    """The answers of one process."""

    def __init__(self) -> None:
        self._known: dict[Sort, _Known] = {}

    def told(self, facts: ClusterFacts) -> ClusterFacts:
        """The facts with what the server said."""
        return replace(facts, verdicts={sort: one.verdict for sort, one in self._known.items()})

    def learn(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Note what the server said of pods that were made or tried at Unix time `now`."""
        for outcome in outcomes:
            action = outcome.action
            if isinstance(action, CreatePod | TryPod):
                self._learn(action, outcome, now)
        forgotten = now - LONGEST_PAUSE_S  # by then it was asked again, if it is wanted at all
        self._known = {s: one for s, one in self._known.items() if one.verdict.until > forgotten}

    def due_at(self, now: float) -> list[float]:
        """When pods that were refused are tried again."""
        verdicts = (one.verdict for one in self._known.values())
        return [v.until for v in verdicts if v.refusal is not None and v.until > now]

    def _learn(self, action: CreatePod | TryPod, outcome: Outcome, now: float) -> None:
        sort, is_made = sort_of(action.manifest), isinstance(action, CreatePod)
        if outcome.refusal is None:
            if outcome.result == DONE:
                self._known[sort] = _Known(Verdict(now + ADMITTED_S))
            return
        known = self._known.get(sort)
        if known is not None and _is_said(known.verdict, outcome.refusal, is_made, now):
            return  # twenty pods at once are one refusal, and words that change are no news
        pause_s = min(max(FIRST_PAUSE_S, 2.0 * known.pause_s if known else 0.0), LONGEST_PAUSE_S)
        words = words_of(action.manifest, outcome.message)
        verdict = Verdict(now + pause_s, outcome.refusal, words, is_made)
        self._known[sort] = _Known(verdict, pause_s)


def _is_said(verdict: Verdict, refusal: Refusal, is_made: bool, now: float) -> bool:
    same = (verdict.refusal, verdict.is_made) == (refusal, is_made)
    return same and now < verdict.until


def words_of(manifest: Manifest, message: str) -> str:
    """The server's words without the pod's name: a rule refuses twenty pods for one reason."""
    words = message.replace(manifest["metadata"]["name"], "<pod>")
    return words if len(words) <= _LONGEST_WORDS else words[: _LONGEST_WORDS - 1] + "…"
