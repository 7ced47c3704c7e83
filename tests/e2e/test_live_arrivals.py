"""The live demo's arrivals: a recorded slice at the demo's rate, or Poisson, and which of them is said."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from e2e import live_arrivals
from e2e.live_questions import QUESTIONS

from motley_planner.simulator.traces import read_trace

LENGTHS = [len(text) for text, _ in QUESTIONS]


def a_trace(folder: Path) -> Path:
    """Nine requests: bursts of three, each longer than the one before."""
    path = folder / "trace.csv"
    times = [10.0 * (i // 3) + 0.1 * (i % 3) for i in range(9)]
    rows = [f"{t},{100 + 10 * i},5" for i, t in enumerate(times)]
    path.write_text("\n".join(["time_s,prompt_tokens,output_tokens", *rows]))
    return path


def test_a_slice_keeps_bursts_and_the_order_of_lengths_at_the_rate_that_is_asked(
    tmp_path: Path,
) -> None:
    found = live_arrivals.sliced(read_trace(a_trace(tmp_path)), "bursts", first=1)
    made = list(islice(live_arrivals.arrivals(found, 4.0, LENGTHS), 7))
    gaps = [gap for _, gap in made]
    assert np.mean(gaps) == pytest.approx(1 / 4.0)
    assert gaps[1] / gaps[0] == pytest.approx(9.8 / 0.1)
    asked = [LENGTHS[number] for number, _ in made]
    assert asked == sorted(asked) and asked[0] < asked[-1]


def test_a_slice_begins_anew_at_its_end(tmp_path: Path) -> None:
    found = live_arrivals.sliced(read_trace(a_trace(tmp_path)), "bursts", first=0)
    made = list(islice(live_arrivals.arrivals(found, 2.0, LENGTHS), 16))
    assert made[:8] == made[8:]


def test_without_a_trace_arrivals_are_poisson_and_that_is_said(tmp_path: Path) -> None:
    found = live_arrivals.source(tmp_path / "none.csv.gz")
    assert found.name.startswith("Poisson")
    made = list(islice(live_arrivals.arrivals(found, 5.0, LENGTHS), 4000))
    gaps = np.array([gap for _, gap in made])
    assert gaps.mean() == pytest.approx(0.2, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.08)
    assert {number for number, _ in made} == set(range(len(QUESTIONS)))


@pytest.mark.skipif(not live_arrivals.TRACE.exists(), reason="needs Azure's trace")
def test_every_question_is_asked_as_often_under_the_recorded_slice() -> None:
    """A cascade's calibration is of all questions alike."""
    found = live_arrivals.source()
    assert "Azure" in found.name and len(found.gaps) == live_arrivals.COUNT
    numbers = [n for n, _ in islice(live_arrivals.arrivals(found, 1.0, LENGTHS), len(found.gaps))]
    counts = np.bincount(numbers, minlength=len(QUESTIONS))
    assert counts.min() >= len(numbers) // len(QUESTIONS)
    assert np.std(found.gaps) > 0.5, "gaps of a recorded trace are no metronome's"
