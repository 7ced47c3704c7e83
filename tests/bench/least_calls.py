"""The fewest calls to the large model with which any rule can keep a floor from half of a table.

Policies p_0 (all to the large model) to p_K (none) ask it for shares e_k of the questions and have
qualities m_k on the table. Beside the table think, for each i with m_i >= floor, of one where p_i
is just below the floor, for some questions that p_i answers rightly gave way to such as it answers
wrongly, both drawn at random. There p_k has the quality

    m_k - b_ki (m_i - floor),  b_ki = cov(q_k, q_i) / var(q_i)

and S_i are the policies below the floor. A rule that keeps the floor in 95 % of the halves of that
table picks from S_i in at most 5 % of them. Its halves and those of the table itself differ in the
number of right answers of p_i alone, and the best test that errs in 5 % of the former (Neyman and
Pearson) finds out in

    w_i = P(Z <= (m_i - floor) / sigma_i - 1.645),  sigma_i = s_i sqrt((1 - n / N) / n)

of the latter, in no more of which the rule may therefore pick from S_i here. The least mean share
of calls is that of the linear program

    min sum e_k x_k,  sum x_k = 1,  sum over S_i of x_k <= w_i,  sum over m_k < floor <= 0.05.

The normal distribution stands for the hypergeometric one (a test compares them). Where steps of
the path are coarse, each is walked in mixtures of its two ends, as the rule does.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from motley_planner.calibrating.thresholds import MIX_FROM, MIX_PARTS, path
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import replay

Floats = NDArray[np.float64]
ERROR = 0.05


def least_calls(table: CalibrationTable, floor: float, rows: int | None = None) -> float:
    """Least mean share of calls over halves (or parts of so many rows), for 95 % that keep it."""
    asked = table.rows // 2 if rows is None else rows
    shares, worth = walked(table)
    means, spreads = worth.mean(axis=1), np.cov(worth)
    limits, most = [(means < floor).astype(float)], [ERROR]
    for index in np.flatnonzero(means >= floor):
        lost = (means[index] - floor + 1e-9) * spreads[index] / max(spreads[index, index], 1e-12)
        below = means - lost < floor
        if not below.all():  # where nothing keeps the floor, nothing is asked of a rule
            limits.append(below.astype(float))
            most.append(power(worth[index], floor, asked))
    found = linprog(
        shares, np.stack(limits), most, np.ones((1, len(shares))), [1.0], method="highs"
    )
    return float(found.fun)


def power(quality: Floats, floor: float, rows: int) -> float:
    """The best test's share of parts of so many rows that tell the quality is above the floor."""
    mean, normal = float(quality.mean()), NormalDist()
    deviation = sqrt(float(quality.var(ddof=1)) * (1.0 - rows / len(quality)) / rows)
    return normal.cdf((mean - floor) / max(deviation, 1e-12) - normal.inv_cdf(1.0 - ERROR))


def beside(table: CalibrationTable, floor: float, limits: tuple[float, ...]) -> CalibrationTable:
    """The table on which a policy is just below the floor, one draw of it."""
    right = replay(table, limits)[0] > 0.5
    many = int(right.sum()) - int(np.ceil(floor * table.rows)) + 1
    draw, kept = np.random.default_rng(1), np.arange(table.rows)
    gone = draw.permutation(np.flatnonzero(right))[:many]
    kept[gone] = draw.choice(np.flatnonzero(~right), many)
    return CalibrationTable(
        table.stages,
        {name: tuple(np.asarray(each)[kept].tolist()) for name, each in table.scores.items()},
        {name: tuple(np.asarray(each)[kept].tolist()) for name, each in table.qualities.items()},
        {},
    )


def walked(table: CalibrationTable) -> tuple[Floats, Floats]:
    """Shares of calls and each question's worth, by policy, from the safest to the cheapest."""
    shares: list[float] = []
    worth: list[Floats] = []
    for limits in path(table, table.stages[:-1]):
        quality, visited = replay(table, limits)
        share = float(visited[-1].mean())
        if shares and shares[-1] - share > MIX_FROM:
            last, before = worth[-1], shares[-1]
            for part in range(1, MIX_PARTS):
                worth.append(last + part / MIX_PARTS * (quality - last))
                shares.append(before + part / MIX_PARTS * (share - before))
        shares.append(share)
        worth.append(quality)
    return np.array(shares), np.stack(worth)
