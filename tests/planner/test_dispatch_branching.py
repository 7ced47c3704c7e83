"""Which branches are given up, when it is enough, and who answers: against plain readings of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    BranchBook,
    BranchRule,
    Confidence,
    Extraction,
    Pruning,
    Reward,
    RoutingError,
    best_of,
    branch_document,
    parse_branches,
    parse_routing,
    routing_document,
    winner_of,
)

SCORES = st.none() | st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])


@st.composite
def rules(draw: st.DrawFn) -> BranchRule:
    samples = draw(st.integers(1, 32))
    prune = None
    if draw(st.booleans()):
        below = draw(st.floats(0, 1))
        prune = Pruning(below, draw(st.integers(0, samples - 1)), draw(st.integers(1, 900)))
    zone = draw(st.sampled_from(["", "eu"]))
    score: Confidence | Reward = Reward("http://judge:8000", "prm", "/score", "Logit", zone)
    if draw(st.booleans()):
        score = Confidence(draw(st.sampled_from(["Mean", "Tail", "Lowest"])), 64)
    choose = draw(st.sampled_from(["Best", "Vote"]))
    extract = Extraction("Regex", "x(.)") if choose == "Vote" else Extraction()
    return BranchRule(samples, draw(st.integers(1, samples)), prune, score, choose, extract)


@given(rules())
def test_a_rule_survives_its_document(rule: BranchRule) -> None:
    assert parse_branches(branch_document(rule), "branches") == rule


def test_what_is_left_out_has_defaults_or_is_the_base() -> None:
    assert parse_branches({"samples": 7}, "b") == BranchRule(7, 4)
    pruned = parse_branches({"samples": 8, "prune": {}}, "b").prune
    assert pruned == Pruning(0.5, 4, 400)
    base = BranchRule(8, 2, Pruning(0.4, 7, 100), choose="Vote")
    assert parse_branches({"stop_after": 3}, "b", base) == replace(base, stop_after=3)
    fewer = parse_branches({"samples": 2}, "b", base)
    assert fewer == BranchRule(2, 1, Pruning(0.4, 1, 100), choose="Vote")
    assert parse_branches({"samples": 2, "prune": None}, "b", base).prune is None


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (3, "b"),
        ({}, "b.samples"),
        ({"samples": 33}, "b.samples"),
        ({"samples": True}, "b.samples"),
        ({"samples": 4, "stop_after": 5}, "b.stop_after"),
        ({"samples": 4, "prune": {"below": float("nan")}}, "b.prune.below"),
        ({"samples": 4, "prune": {"most": 4}}, "b.prune.most"),
        ({"samples": 4, "prune": {"every_tokens": 0}}, "b.prune.every_tokens"),
        ({"samples": 4, "choose": "First"}, "b.choose"),
        ({"samples": 4, "score": {"type": "Gut"}}, "b.score.type"),
        ({"samples": 4, "score": {"over": "Head"}}, "b.score.over"),
        ({"samples": 4, "score": {"type": "Reward", "url": "ftp://x"}}, "b.score.url"),
        ({"samples": 4, "score": {"type": "Reward", "url": "http://x"}}, "b.score.model"),
        (
            {
                "samples": 4,
                "score": {"type": "Reward", "url": "http://x", "model": "m", "trust_zone": 1},
            },
            "b.score.trust_zone",
        ),
        ({"samples": 4, "extract": {"type": "Regex"}}, "b.extract.pattern"),
        ({"samples": 4, "extract": {"type": "Regex", "pattern": "("}}, "b.extract.pattern"),
    ],
)
def test_a_wrong_rule_is_refused_by_its_field(document: Any, field: str) -> None:
    with pytest.raises(RoutingError) as caught:
        parse_branches(document, "b")
    assert caught.value.field == field


def test_a_routing_file_carries_the_rule_of_a_stage() -> None:
    rule = BranchRule(8, 4, Pruning(0.5, 4, 200), Reward("http://j", "m"), "Vote")
    one = {"name": "r", "url": "http://r", "rates": {}, "capacity": {"a": 1.0}}
    document = {
        "version": 1,
        "plan_hash": "h",
        "resource": {"kind": "ServingPool", "namespace": "t", "name": "p"},
        "served_model_names": ["p"],
        "classes": [{"name": "a", "prompt_tokens": 1, "output_tokens": 1}],
        "stages": [{"name": "main", "model": "m", "replicas": [one]}],
    }
    assert parse_routing(document).stages[0].branches is None
    assert "branches" not in routing_document(parse_routing(document))["stages"][0]
    document["stages"][0]["branches"] = branch_document(rule)  # type: ignore[index]
    table = parse_routing(document)
    assert table.stages[0].branches == rule
    assert parse_routing(routing_document(table)) == table
    document["stages"][0]["branches"] = {"samples": 0}  # type: ignore[index]
    with pytest.raises(RoutingError, match=r"stages\[0\].branches.samples"):
        parse_routing(document)


class Plain:
    """The two phases, written down from the paper: states instead of sets, everything anew."""

    def __init__(self, rule: BranchRule) -> None:
        self.rule, self.state = rule, dict.fromkeys(range(rule.samples), "live")
        self.latest: dict[int, float] = {}
        self.first: float | None = None

    def count(self, state: str) -> int:
        return Counter(self.state.values())[state]

    def is_low(self, branch: int) -> bool:
        prune, score = self.rule.prune, self.latest.get(branch)
        if prune is None or score is None:
            return False
        if self.count("ended"):
            return self.first is not None and score < max(self.first, prune.below)
        return self.count("pruned") < prune.most and self.count("live") > 1 and score < prune.below

    def score(self, branch: int, score: float | None) -> None:
        if score is not None:
            self.latest[branch] = score
            if self.is_low(branch):
                self.state[branch] = "pruned"

    def end(self, branch: int, score: float | None) -> None:
        is_first = self.count("ended") == 0
        self.state[branch] = "ended"
        if is_first:
            self.first = score
            for other in [b for b in self.state if self.state[b] == "live" and self.is_low(b)]:
                self.state[other] = "pruned"


@settings(max_examples=300)
@given(
    rules(), st.lists(st.tuples(st.integers(0, 31), st.sampled_from("sse f"), SCORES), max_size=60)
)
def test_the_book_does_what_the_two_phases_say(rule: BranchRule, events: Any) -> None:
    book, plain = BranchBook(rule), Plain(rule)
    for branch in range(rule.samples):
        book.start(branch)
    for branch, what, score in events:
        if branch not in book.live or book.is_over:
            continue
        if what == "s":
            if book.scored(branch, score):
                book.prune(branch)
            plain.score(branch, score)
        elif what == "e":
            for other in book.end(branch, score):
                book.prune(other)
            plain.end(branch, score)
        elif what == "f":
            book.fail(branch)
            plain.state[branch] = "failed"
        found = {b for b, state in plain.state.items() if state == "pruned"}
        assert (book.pruned, len(book.ended)) == (found, plain.count("ended"))
        assert book.ended or book.live or plain.count("failed"), "somebody is left to answer"
        assert book.is_over == (plain.count("ended") >= rule.stop_after or plain.count("live") == 0)


@given(st.lists(st.tuples(st.none() | st.sampled_from("abc"), SCORES), min_size=1, max_size=9))
def test_the_vote_and_the_best_are_those_of_brute_force(branches: Any) -> None:
    votes = {i: vote for i, (vote, _) in enumerate(branches)}
    scores = {i: score for i, (_, score) in enumerate(branches)}

    def key(i: int) -> float:
        return -1.0 if scores[i] is None else scores[i]

    best = max(scores, key=lambda i: (key(i), -i))
    assert best_of(scores) == best
    counted = [i for i in votes if votes[i] is not None]
    if not counted:
        assert winner_of(votes, scores) == best
        return

    def rank(vote: str) -> tuple[int, float, int]:
        those = [i for i in counted if votes[i] == vote]
        return len(those), sum(scores[i] or 0.0 for i in those), -those[0]

    top = max({str(votes[i]) for i in counted}, key=rank)
    assert winner_of(votes, scores) == max(
        (i for i in counted if votes[i] == top), key=lambda i: (key(i), -i)
    )
