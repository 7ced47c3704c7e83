"""Several branches of one request: when one is given up, when it is enough, and which one answers.

A request starts `samples` branches of the same prompt and is answered as soon as `stop_after` of
them have ended. Live branches are scored while they grow, and given up in two phases:

1. exploration, until a branch has ended: those that score below `prune.below`, at most `prune.most`
2. exploitation, from then on: those that score below the first ended branch's score (or
   `prune.below`, where that is higher), however many they are

The last live branch is never given up while none has ended. This module has no clock and no
sockets: the gateway runs it on streams, the simulator on drawn lengths.

Source: SART, "Thinking Short and Right Over Thinking Long", arXiv 2505.13326.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_SAMPLES = 32
MEASURES = ("Mean", "Tail", "Lowest")
CHOICES = ("Best", "Vote")
EXTRACTORS = ("Boxed", "Number", "Letter", "Regex")
REWARD_SCALES = ("Probability", "Logit")

ROUNDING = 1e-9  # of a score: means of as many equal confidences differ by less


@dataclass(frozen=True, slots=True)
class Pruning:
    """Below which score (0..1) branches are given up, how many at most, and how often it is asked."""

    below: float = 0.5
    most: int = 1
    every_tokens: int = 400


@dataclass(frozen=True, slots=True)
class Confidence:
    """A score from token log-probabilities: exp of a mean of them, in (0, 1].

    `over`: Mean of all tokens so far, Tail of the last `tokens`, Lowest of any `tokens` in a row.
    """

    over: str = "Tail"
    tokens: int = 256


@dataclass(frozen=True, slots=True)
class Reward:
    """A score from a pool that judges partial answers; `scale` Logit passes a logistic function.

    Requests that name trust zones are judged only where `trust_zone` is one of them: empty is none.
    """

    url: str
    model: str
    path: str = "/pooling"
    scale: str = "Probability"
    trust_zone: str = ""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What of an answer is its vote; `pattern` is a Regex's, group 1 counts where there is one."""

    type: str = "Boxed"
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class BranchRule:
    """How a stage's requests branch. One sample means that they do not."""

    samples: int
    stop_after: int
    prune: Pruning | None = None
    score: Confidence | Reward = Confidence()
    choose: str = "Best"
    extract: Extraction = Extraction()

    @property
    def needs_logprobs(self) -> bool:
        """Whether engines must report log-probabilities for it."""
        asked = self.prune is not None or self.choose == "Best"
        return asked and isinstance(self.score, Confidence)


@dataclass(slots=True)
class BranchBook:
    """One request's branches; each is ended at most once.

    `needed` branches must end: the rule's `stop_after`, fewer once there is no time for more.
    """

    rule: BranchRule
    live: set[int] = field(default_factory=set)
    ended: dict[int, float | None] = field(default_factory=dict)
    pruned: set[int] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)
    needed: int = 0
    _scores: dict[int, float] = field(default_factory=dict)
    _bar: float | None = None  # the exploitation threshold, once a branch has ended with a score

    def __post_init__(self) -> None:
        self.needed = self.rule.stop_after

    def start(self, branch: int) -> None:
        """A branch begins."""
        self.live.add(branch)

    @property
    def is_over(self) -> bool:
        """Whether enough have ended, or none is left."""
        return len(self.ended) >= self.needed or not self.live

    def scored(self, branch: int, score: float | None) -> bool:
        """Notes a live branch's score; True if the branch is to be given up now."""
        if score is None or branch not in self.live:
            return False
        self._scores[branch] = score
        return self._is_hopeless(branch)

    def end(self, branch: int, score: float | None) -> tuple[int, ...]:
        """A branch has ended with an answer; the live ones that are now to be given up."""
        self.live.discard(branch)
        is_first = not self.ended
        self.ended[branch] = score
        prune = self.rule.prune
        if not is_first or prune is None or score is None:
            return ()
        self._bar = max(prune.below, score)
        return tuple(one for one in sorted(self.live) if self._is_hopeless(one))

    def prune(self, branch: int) -> None:
        """A branch was given up."""
        self.live.discard(branch)
        self.pruned.add(branch)

    def fail(self, branch: int, *, is_wrong: bool = False) -> None:
        """A branch has no answer; `is_wrong`: it has one that is plainly wrong."""
        self.live.discard(branch)
        if is_wrong:
            self.wrong.add(branch)

    def _is_hopeless(self, branch: int) -> bool:
        prune, score = self.rule.prune, self._scores.get(branch)
        if prune is None or score is None:
            return False
        if self.ended:
            return self._bar is not None and score < self._bar - ROUNDING
        may = len(self.pruned) < prune.most and len(self.live) > 1
        return may and score < prune.below - ROUNDING


def best_of(scores: dict[int, float | None]) -> int:
    """The branch of the highest score; among equals, and without scores, the one that ended first.

    `scores` in the order in which branches ended.
    """
    return max(scores, key=lambda branch: _known(scores[branch]))


def winner_of(votes: dict[int, str | None], scores: dict[int, float | None]) -> int:
    """The branch that stands for the most frequent vote: the best of those that gave it.

    A tie goes to the larger sum of scores, then to who ended first. Without any vote, the best.
    """
    groups: dict[str, dict[int, float | None]] = {}
    for branch, vote in votes.items():
        if vote is not None:
            groups.setdefault(vote, {})[branch] = scores[branch]
    if not groups:
        return best_of(scores)

    def weight(group: dict[int, float | None]) -> tuple[int, float]:
        return len(group), sum(score or 0.0 for score in group.values())

    return best_of(max(groups.values(), key=weight))


def _known(score: float | None) -> float:
    return float("-inf") if score is None else score
