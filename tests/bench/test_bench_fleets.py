"""The benchmark of fleets in its shortest form: it runs, its plans check, its gaps are small.

Demanded is 0.05 % in 2 s for family A and 0.2 % in 1 s for B at 2,048 GPUs; here a busy machine and
wall time leave a factor of ten.
"""

from __future__ import annotations

import pytest
from tests.bench.fleets import BEGIN, END, PAGE, Case, gap_row, row_name


@pytest.mark.parametrize(
    "case", [Case("A", 128, ("min_cost", "goodput"), 2, 0.05), Case("B", 2048, ("budget",), 2, 0.2)]
)
def test_a_short_row_keeps_its_gap(case: Case) -> None:
    row = gap_row(case, seeds=1)
    assert row_name(row) == case.name
    worst = float(row.split("|")[5])
    assert worst <= 10 * case.demanded


def test_the_page_has_a_place_for_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
