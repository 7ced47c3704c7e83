"""The benchmark of fleets in its shortest form: it runs, its plans check, its gaps are small.

Demanded is 0.05 % in 2 s for family A and 0.2 % in 1 s for B at 2,048 GPUs; here a busy machine and
wall time leave a factor of ten.
"""

from __future__ import annotations

import pytest
from tests.bench.fleets import Case, gap_row, replan_row, row_name


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize(
    "case", [Case("A", 128, ("min_cost", "goodput"), 2, 0.05), Case("B", 2048, ("budget",), 2, 0.2)]
)
def test_a_short_row_keeps_its_gap(case: Case) -> None:
    row = gap_row(case, seeds=1)
    assert row_name(row) == case.name
    worst = float(row.split("|")[5])
    assert worst <= 10 * case.demanded


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_seconds")
def test_the_hard_middle_is_within_a_tenth_after_a_minute() -> None:
    """All ten seeds: python -m tests.bench.fleets --only "C/128 budget"."""
    row = cells(gap_row(Case("C", 128, ("budget", "min_cost"), 60, 15), seeds=1))
    assert float(row[4]) <= 10.0


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_seconds")
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_second_is_enough_for_a_replan_of_the_hard_middle(share: float) -> None:
    """Wanted is 0.995 of the reference, measured 0.9948 and more; never less than repair."""
    row = cells(replan_row("C", 128, share, seeds=1))
    assert float(row[3]) >= 0.99 and float(row[4]) >= -1e-9
