"""The plain-array program: building, adding rows, measuring violations."""

from __future__ import annotations

import numpy as np
import pytest

from motley_planner.solver.milp import Level, Milp, MilpBuilder


def dense(milp: Milp) -> np.ndarray:
    """A as a dense matrix."""
    matrix = np.zeros((milp.num_rows, milp.num_cols))
    for col in range(milp.num_cols):
        for entry in range(milp.start[col], milp.start[col + 1]):
            matrix[milp.index[entry], col] += milp.value[entry]
    return matrix


def random_program(seed: int) -> tuple[Milp, np.ndarray]:
    """A program and the matrix it was built from."""
    rng = np.random.default_rng(seed)
    rows, cols = int(rng.integers(0, 6)), int(rng.integers(1, 6))
    matrix = np.where(rng.random((rows, cols)) < 0.5, rng.normal(size=(rows, cols)), 0.0)
    builder = MilpBuilder()
    for _ in range(cols):
        builder.variable(integer=bool(rng.random() < 0.5))
    for row in matrix:
        # every coefficient in two halves: repeated columns add up
        builder.row([(c, v / 2) for c, v in enumerate(row)] * 2, upper=1.0)
    return builder.build(), matrix


@pytest.mark.parametrize("seed", range(20))
def test_the_built_matrix_is_the_one_described(seed: int) -> None:
    milp, matrix = random_program(seed)
    assert np.allclose(dense(milp), matrix)
    x = np.random.default_rng(seed).normal(size=milp.num_cols)
    y = np.random.default_rng(seed).normal(size=milp.num_rows)
    assert np.allclose(milp.activity(x), matrix @ x)
    assert np.allclose(milp.price_out(y), matrix.T @ y)


@pytest.mark.parametrize("seed", range(20))
def test_an_added_row_comes_last_and_leaves_the_others_alone(seed: int) -> None:
    milp, matrix = random_program(seed)
    row = np.random.default_rng(seed + 100).choice([0.0, 2.0, -1.0], size=milp.num_cols)
    more = milp.with_row(row, -3.0, 4.0)
    assert np.allclose(dense(more), np.vstack([matrix, row]))
    assert (more.row_lower[-1], more.row_upper[-1]) == (-3.0, 4.0)


def test_violation_sees_rows_bounds_and_integrality() -> None:
    builder = MilpBuilder()
    a = builder.variable(0, 5, integer=True)
    b = builder.variable(0, 5)
    builder.row([(a, 1.0), (b, 1.0)], lower=1.0, upper=6.0)
    milp = builder.build()
    cases = {
        (1.0, 1.0): 0.0,
        (0.0, 0.5): 0.5,
        (5.0, 3.0): 2.0,
        (1.5, 0.0): 0.5,
        (-1.0, 3.0): 1.0,
        (0.0, 5.25): 0.25,
    }
    for point, expected in cases.items():
        assert milp.violation(np.array(point)) == pytest.approx(expected)


def test_a_level_reads_its_constant() -> None:
    assert Level("p", np.array([2.0, -1.0]), 5.0).value_of(np.array([3.0, 4.0])) == 7.0
