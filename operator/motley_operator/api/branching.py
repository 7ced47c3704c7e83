"""Branches: several answers to one request side by side, stopped when enough of them have ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from motley_operator.api.common import ApiModel, Label, Line, Placement
from motley_operator.api.findings import Finding, Path
from motley_operator.api.quantities import Percentage
from motley_operator.api.rules import Rule, not_above, one_member
from motley_operator.api.surroundings import found
from motley_operator.api.traffic import Disaggregation
from motley_operator.domain.names import TRUST_ZONE
from motley_planner.costs.order_statistics import branch_tokens
from motley_planner.dispatch import BranchRule, Confidence, Extraction, Pruning, Reward
from motley_planner.domain.demand import Branching

Url = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^https?://[^\s/]+(/[^\s]*)?$")]


class Prune(ApiModel):
    """Which branches are given up before they end."""

    below: Percentage = Field(
        description="A branch that scores lower is given up; once one has ended, its score takes this place if it is higher.",
    )
    most: int | None = Field(
        default=None,
        ge=0,
        le=31,
        description="Branches given up at most before one has ended; absent: samples - stopAfter.",
    )
    every_tokens: int = Field(
        default=400, ge=1, le=1_000_000, description="Tokens of a branch between two scores."
    )


class ConfidenceScore(ApiModel):
    """Geometric mean of token probabilities."""

    over: Literal["Mean", "Tail", "Lowest"] = Field(
        description="Mean over all tokens so far; Tail over the last ones; Lowest of any that many in a row.",
    )
    tokens: int = Field(default=256, ge=1, le=1_000_000, description="Length of the window.")


class RewardScore(ApiModel):
    """A pool of a reward model."""

    url: Url = Field(description="Base URL of the pool; prompts and partial answers go there.")
    model: Line = Field(description="Model name sent to it.")
    path: Literal["/pooling", "/classify", "/score", "/v1/score"] = Field(
        default="/pooling", description="Which of vLLM's endpoints it has."
    )
    scale: Literal["Probability", "Logit"] = Field(
        default="Probability",
        description="Whether its numbers are from 0 to 1, or pass a logistic function first.",
    )
    trust_zone: Label | None = Field(
        default=None,
        description="Trust zone that the pool is in. Requests of clients and gateways with trust zones are scored only where it is one of them; absent: it is in none. Where placement names trust zones it must be one of these.",
    )


class BranchScore(ApiModel):
    """How good a branch looks: exactly one member, named by `type`."""

    rules = (one_member("score", {"Confidence": "confidence", "Reward": "reward"}),)
    type: Literal["Confidence", "Reward"] = Field(description="Which member is set.")
    confidence: ConfidenceScore | None = Field(
        default=None, description="From the engine's log-probabilities."
    )
    reward: RewardScore | None = Field(default=None, description="From a reward model.")


class Extract(ApiModel):
    """What of an answer is its vote."""

    rules = (
        Rule(
            "pattern",
            "pattern",
            "pattern belongs to type Regex: write both, or neither",
            # An absent extract defaults to {}, which the API server checks before its type.
            "has(self.pattern) == (has(self.type) && self.type == 'Regex')",
            lambda d: ("pattern" in d) == (d.get("type") == "Regex"),
        ),
    )
    type: Literal["Boxed", "Number", "Letter", "Regex"] = Field(
        default="Boxed",
        description="The last \\boxed{}, the last number, the letter of a choice, or the last match.",
    )
    pattern: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="Regex: a Python regular expression; its group 1 counts, if any."
    )


def _leaves_one(document: Any) -> bool:
    most = (document.get("prune") or {}).get("most")
    return most is None or most < document.get("samples", 0)


class Branches(ApiModel):
    """Several answers to each request, of which one is returned."""

    rules = (
        not_above("stopAfter", "samples", "stopAfter must not be above samples: lower it"),
        Rule(
            "prune.most < samples",
            "prune.most",
            "prune.most must be below samples, so that one branch is left: lower it",
            "!has(self.prune) || !has(self.prune.most) || self.prune.most < self.samples",
            _leaves_one,
        ),
    )
    samples: int = Field(ge=2, le=32, description="Branches of a request, all on one replica.")
    stop_after: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Branches that must have ended; the others are closed then. Absent: half of them.",
    )
    prune: Prune | None = Field(default=None, description="Absent: none is given up early.")
    score: BranchScore | None = Field(
        default=None,
        description="What branches are given up and chosen by; absent: confidence of the last 256 tokens.",
    )
    choose: Literal["Best", "Vote"] = Field(
        default="Best", description="The answer of the highest score, or the most frequent one."
    )
    extract: Extract = Field(default=Extract(), description="Vote: what is counted.")
    length_variation: Percentage = Field(
        default=Percentage("50%"),
        description="Standard deviation of a branch's length over its mean; the plan reckons with it.",
    )

    @property
    def rule(self) -> BranchRule:
        """The rule as gateways read it."""
        stop = self.stop_after or (self.samples + 1) // 2
        prune, extract = self.prune, self.extract
        pruning = None
        if prune is not None:
            most = prune.most if prune.most is not None else self.samples - stop
            pruning = Pruning(prune.below.fraction, most, prune.every_tokens)
        score: Confidence | Reward = Confidence()
        written = self.score
        if written is not None and (given := written.confidence) is not None:
            score = Confidence(given.over, given.tokens)
        elif written is not None and (pool := written.reward) is not None:
            zone = pool.trust_zone or ""
            score = Reward(pool.url.rstrip("/"), pool.model, pool.path, pool.scale, zone)
        picked = Extraction(extract.type, extract.pattern or "")
        return BranchRule(self.samples, stop, pruning, score, self.choose, picked)

    def branching(self, stage: str) -> Branching:
        """What a simulation of a stage needs to know of its branches."""
        rule = self.rule
        spread = self.length_variation.fraction
        return Branching(stage, rule.samples, rule.stop_after, spread)

    @property
    def sequences_per_request(self) -> float:
        """Whole answers' worth of tokens that the branches of a request make, pruning left out."""
        rule = self.rule
        return branch_tokens(rule.samples, rule.stop_after, self.length_variation.fraction)


def branch_findings(
    branches: Branches | None, disaggregation: Disaggregation, placement: Placement, at: Path
) -> Iterator[Finding]:
    """Branches that no gateway can run, or that are judged outside of the engines' trust zones."""
    if branches is None:
        return
    yield from _outside(branches, placement, at)
    if disaggregation == "Always":
        yield found(
            (*at, "branches"), "branches and phases",
            "the branches of a request share the prompt's cache of one replica: set "
            "disaggregation to Auto or Never, or drop branches", "InvalidSpec",
        )  # fmt: skip
    pattern = branches.extract.pattern
    try:
        re.compile(pattern or "")
    except re.error as error:
        yield found(
            (*at, "branches", "extract", "pattern"), "regular expression",
            f"pattern is no regular expression ({error}): correct it", "InvalidSpec",
        )  # fmt: skip


def _outside(branches: Branches, placement: Placement, at: Path) -> Iterator[Finding]:
    """A reward pool where the engines may not be: it is sent all that they are.

    Gateways and clients with these zones send it nothing, and all others everything.
    """
    pool = branches.score.reward if branches.score is not None else None
    zones, selected = placement.trust_zones, placement.node_selector.get(TRUST_ZONE)
    allowed = {selected} if selected is not None else set(zones or ())
    if pool is None or not allowed or pool.trust_zone in allowed:
        return
    names = ", ".join(sorted(allowed))
    where = f"is in {pool.trust_zone}" if pool.trust_zone else "is in no trust zone"
    said = "nodeSelector" if selected is not None else "trustZones"
    yield found(
        (*at, "branches", "score", "reward", "trustZone"), "trust zones",
        f"the reward pool {where}, is sent prompts and answers, and placement.{said} keeps "
        f"these in {names}: name the pool's zone here if it is one of them, widen "
        f"placement.{said}, or score by Confidence", "PlacementContradiction",
    )  # fmt: skip
