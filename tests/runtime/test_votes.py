"""What of an answer is its vote."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.dispatch import Extraction
from motley_runtime.gateway.votes import vote_of

CASES = [
    ("Boxed", "so \\boxed{1} no, \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}"),
    ("Boxed", "it is \\boxed{1,234.50}", "1234.5"),
    ("Boxed", "it is \\boxed{42} and then \\boxed{4", "42"),
    ("Boxed", "nothing", None),
    ("Boxed", "\\boxed{}", None),
    ("Number", "first 3, then -1,204.0 in all.", "-1204"),
    ("Number", "0.10 and -0", "0"),
    ("Number", "6e2", "600"),
    ("Number", "1e999999999", "1E+999999999"),
    ("Number", "none", None),
    ("Letter", "A is wrong. The answer is (C).", "C"),
    ("Letter", "**Answer:** B", "B"),
    ("Letter", "I think \\boxed{\\text{D}}", "D"),
    ("Letter", "A dog. I am sure: it must be E.", "E"),
    ("Letter", "the answer is a dog", None),
    ("Letter", "it cannot be told", None),
]


@pytest.mark.parametrize(("kind", "text", "vote"), CASES)
def test_the_vote_is_what_a_reader_would_take(kind: str, text: str, vote: str | None) -> None:
    assert vote_of(text, Extraction(kind)) == vote


def test_a_pattern_counts_by_its_group_and_its_last_match() -> None:
    how = Extraction("Regex", r"label=(\w+)")
    assert vote_of("label=yes ... label=no", how) == "no"
    assert vote_of("a1 b2", Extraction("Regex", r"[a-z]\d")) == "b2"
    assert vote_of("x", Extraction("Regex", r"(y)?x")) is None


@given(st.integers(-(10**9), 10**9), st.text(alphabet="ab \n.$", max_size=20))
def test_equal_numbers_vote_alike_however_they_are_written(value: int, around: str) -> None:
    plain = vote_of(f"{around}{value}", Extraction("Number"))
    grouped = vote_of(f"{around} {value:,}.00 ", Extraction("Number"))
    boxed = vote_of(f"{around}\\boxed{{{value}}}", Extraction("Boxed"))
    assert plain == grouped == boxed == str(value)


@pytest.mark.parametrize("kind", ["Boxed", "Number", "Letter"])
def test_a_hostile_answer_costs_little(kind: str) -> None:
    for text in ("\\boxed{" * 200_000, "1" * 400_000, "A" * 400_000, "1," * 200_000, "{" * 400_000):
        began = time.process_time()
        vote_of(text, Extraction(kind))
        assert time.process_time() - began < 0.1
