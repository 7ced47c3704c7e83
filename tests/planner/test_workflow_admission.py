"""Which workflows are under way, and which new ones are let in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch.admission import Admission, Gate
from motley_planner.dispatch.workflows import Ended, StepCall, Workflows


@settings(deadline=None)
@given(st.floats(1, 50), st.floats(0.1, 9), st.integers(2, 30))
def test_admission_finds_the_line_of_latency_over_load(a: float, b: float, most: int) -> None:
    admission = Admission()
    for index in range(200):
        under_way = index % (most + 1)
        admission.observe(under_way, a + b * under_way)
    for under_way in (1, most):
        assert admission.predicted_s(under_way) == pytest.approx(a + b * under_way, rel=0.02)
    assert admission.admits(most, a + b * most + 1.0 + 0.05 * (a + b * most))
    assert not admission.admits(most, 0.9 * (a + b * most))
    assert admission.admits(0, 0.0)


def test_admission_refuses_nothing_before_it_knows_anything() -> None:
    admission = Admission()
    for _ in range(7):
        admission.observe(5, 1e6)
    assert admission.admits(5, 1.0)
    admission.observe(5, 1e6)
    assert not admission.admits(5, 1.0)


def gate_of(a: float, b: float, most: int = 20) -> Gate:
    """A gate that has seen latencies a + b n."""
    gate = Gate()
    for index in range(200):
        gate.ended(ended(index % (most + 1), a + b * (index % (most + 1))))
    return gate


def ended(under_way: float, seconds: float | None, given_up_s: float | None = None) -> Ended:
    return Ended("", under_way, seconds, None, given_up_s)


@settings(deadline=None)
@given(st.floats(1, 30), st.floats(0.5, 5), st.integers(2, 20), st.floats(1, 100))
def test_a_refused_one_is_told_when_as_many_as_are_too_many_will_have_ended(
    a: float, b: float, under_way: int, slo_s: float
) -> None:
    """n end in the seconds that each takes; the excess over the limit is (prediction - slo) / b."""
    pause_s = gate_of(a, b).refuses("w", "", under_way, slo_s, 0.0)
    predicted_s = a + b * under_way
    if pause_s is None:
        assert predicted_s <= slo_s * 1.03 + 0.1
        return
    assert predicted_s >= slo_s * 0.97 - 0.1
    excess = max(1.0, (predicted_s - slo_s) / b)
    wanted = min(1.0, excess / under_way) * predicted_s
    slack_s = 1.0 + 1.2 * predicted_s / under_way  # it is rounded up to whole ones, and seconds
    assert min(60, max(1.0, 0.9 * wanted - 1.0)) <= pause_s <= min(60, wanted + slack_s + 1.0)


def test_a_refusal_stands_until_it_was_told_to_come_back() -> None:
    gate = gate_of(10.0, 5.0)
    pause_s = gate.refuses("w", "", 10, 20.0, 100.0)
    assert pause_s is not None
    assert gate.stands("w", 100.0) == pause_s
    assert gate.stands("w", 100.0 + pause_s - 0.5) == pytest.approx(0.5)
    assert gate.stands("w", 100.0 + pause_s) is None
    assert gate.stands("other", 100.0) is None
    assert gate.refuses("w", "", 1, 20.0, 200.0) is None


def test_what_a_gate_remembers_is_bounded() -> None:
    gate = Gate(kinds=10, refusals=10)
    for number in range(100):
        for _ in range(8):
            gate.ended(Ended(f"k{number}", 5, 100.0, None, None))
        assert gate.refuses(f"w{number}", f"k{number}", 5, 1.0, 0.0) is not None
    assert len(gate._lines) == 10 and len(gate._refused) == 10
    assert not gate.is_judged("k0") and gate.is_judged("k99")
    assert gate.stands("w99", 0.0) is not None
    gate.refuses("late", "k99", 5, 1.0, 1e6)
    assert set(gate._refused) == {"late"}


def test_one_that_was_given_up_raises_a_prediction_and_never_lowers_it() -> None:
    gate = gate_of(10.0, 5.0)
    before = gate._line("").predicted_s(10)
    gate.ended(ended(10, 2.0, given_up_s=3.0))
    gate.ended(ended(10, None, given_up_s=20.0))
    assert gate._line("").predicted_s(10) == before
    gate.ended(ended(10, None, given_up_s=400.0))
    assert gate._line("").predicted_s(10) > before + 5.0


def test_kinds_are_judged_apart() -> None:
    gate = Gate()
    for _ in range(20):
        gate.ended(Ended("slow", 4, 100.0, None, None))
        gate.ended(Ended("fast", 4, 1.0, None, None))
    assert gate.refuses("a", "slow", 4, 50.0, 0.0) is not None
    assert gate.refuses("b", "fast", 4, 50.0, 0.0) is None
    assert gate.refuses("c", "new", 4, 0.001, 0.0) is None


calls = st.tuples(
    st.sampled_from("abcdef"), st.integers(-2, 2), st.floats(0, 40), st.booleans(), st.booleans()
)


@settings(deadline=None)
@given(st.lists(calls, max_size=60))
def test_counts_of_what_is_under_way_come_back_to_zero(
    rows: list[tuple[str, int, float, bool, bool]],
) -> None:
    """At each moment they are what a plain count says; ends come in any order."""
    book, now = Workflows(idle_s=30.0), 0.0
    at_work: list[tuple[StepCall, bool]] = []
    priorities: dict[str, int] = {}
    for name, priority, pause_s, is_answered, ends_one in rows:
        now += pause_s
        call = StepCall(name, "s", priority=priority)
        book.forget(now)
        if name not in book:
            priorities[name] = priority
        book.due_s(call, now)
        at_work.append((call, is_answered))
        if ends_one:
            one, was_answered = at_work.pop(0)
            if was_answered:
                book.answered(one, 1.0, now)
            book.left(one, now, was_answered)
        busy = {each.workflow for each, _ in at_work}
        assert book.at_work == len(busy)
        for least in range(-2, 3):
            assert book.under_way(least) == sum(priorities[each] >= least for each in busy)
    while at_work:
        book.left(at_work.pop()[0], now)
    assert book.at_work == 0 and book.under_way(-1000) == 0
    book.forget(now + 30.001)
    assert len(book) == 0 and not book._idle and not book._at_work
    assert set(book._past) == set(priorities)
    book.forget(now + 3630.001)
    assert not book._past


def test_a_workflow_with_a_call_at_work_is_not_forgotten_however_long_that_takes() -> None:
    book, call = Workflows(idle_s=30.0), StepCall("w", "s")
    book.due_s(call, 0.0)
    book.forget(1000.0)
    assert "w" in book
    book.left(call, 1000.0)
    book.forget(1029.0)
    assert "w" in book
    book.forget(1030.0)
    assert "w" not in book


def test_the_last_call_ends_its_workflow_once_all_are_answered() -> None:
    ends: list[Ended] = []
    book = Workflows(on_end=ends.append)
    one, two = StepCall("w", "s"), StepCall("w", "t", is_last=True)
    book.due_s(one, 0.0)
    book.due_s(two, 1.0)
    book.answered(two, 1.0, 2.0)
    book.left(two, 2.0)
    assert not ends
    book.answered(one, 3.0, 3.0)
    book.left(one, 3.0)
    assert ends == [Ended("", 0, 3.0, None, None)] and len(book) == 0
    book.due_s(two, 5.0)
    book.left(two, 6.0, is_answered=False)
    assert "w" in book, "a last call that failed may be sent again"
    book.ended("w")
    assert ends[-1] == Ended("", 0, None, None, 1.0)


def test_a_name_is_new_for_sure_only_where_nothing_could_have_been_forgotten() -> None:
    book = Workflows(idle_s=30.0, capacity=2)
    assert not book.is_sure(0.0)
    book.forget(10.0)
    assert not book.is_sure(39.0), "it may have begun before the start"
    assert book.is_sure(40.0)
    for number in range(3):
        call = StepCall(str(number), "s")
        book.due_s(call, 50.0 + number)
        book.left(call, 50.0 + number)
    book.forget(60.0)
    assert book.is_sure(60.0) and all(book.is_known(str(number)) for number in range(3))
    call = StepCall("4", "s")
    book.due_s(call, 61.0)
    book.left(call, 61.0)
    book.forget(62.0)
    assert not book.is_known("0") and len(book) == 1
    assert not book.is_sure(91.0) and book.is_sure(92.0)


def test_the_name_of_one_that_paused_is_known_for_an_hour_more() -> None:
    book, call = Workflows(), StepCall("w", "s")
    book.due_s(call, 0.0)
    book.left(call, 0.0)
    book.forget(3000.0)
    assert "w" not in book and book.is_known("w")
    book.forget(3719.0)
    assert book.is_known("w")
    book.forget(3720.0)
    assert not book.is_known("w")


def test_gateways_count_for_each_other_alike() -> None:
    book = Workflows(gateways=3)
    for name in "ab":
        book.due_s(StepCall(name, "s"), 0.0)
    assert (book.at_work, book.under_way(0), book.under_way(1)) == (2, 6, 0)


def test_steps_that_clients_make_up_are_bounded() -> None:
    book = Workflows(steps=10)
    for number in range(100):
        book.answered(StepCall("w", f"s{number}"), 3.0, 0.0)
    assert len(book._steps) == 10
    assert book.seconds(StepCall("w", "s99")) == 3.0
