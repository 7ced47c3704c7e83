"""Least squares in logarithms, pulled to priors, every (model, GPU) combination scored unseen.

Theory of operation. A row's error is r = log(predicted / measured); its loss grows like |r| beyond
a tenth, as mislabeled and speculative rows must not steer. Combinations weigh as the root of their
rows. Each factor is pulled to its prior in units of its spread. The score leaves every combination
out once: its rows are predicted by a fit that saw none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from motley_planner.costs.closed_loop import first_token_work_s
from motley_planner.costs.rates import Rates
from motley_planner.costs.steps import linear_work_s, message_work_s
from motley_planner.fitting.priors import FIRST, FIXED, STEP
from motley_planner.fitting.rows import Array, Measured, RateTable, Stack, stack_of

STEP_PULL, FIRST_PULL = 0.05, 0.15  # weight of the priors against the rows
CORNER = 0.1  # errors beyond it count about linearly
NAMES = (*STEP, *FIRST, *FIXED)


@dataclass(frozen=True, slots=True)
class Times:
    """Predicted seconds of every row, and the parts a first token is made of."""

    tpot_s: Array
    step_s: Array
    prefill_s: Array


def times(stack: Stack, rates: Rates) -> Times:
    """Step times of all rows at given rates; the arithmetic of costs.steps on arrays."""
    overhead = stack.layers * rates.layer_s + rates.step_s
    step = (
        linear_work_s(stack.decode, rates)
        + stack.kv_bytes / rates.kv_bytes_per_s
        + stack.sequences * rates.sequence_s
        + message_work_s(stack.decode_messages, rates)
        + overhead
    )
    work = (
        linear_work_s(stack.prefill, rates)
        + stack.attention_flop / rates.attention_flop_per_s
        + message_work_s(stack.prefill_messages, rates)
    )
    prefill = work + rates.prefill_overhead * overhead
    tpot = step + stack.others * prefill * rates.interference / stack.output
    return Times(tpot, step, prefill)


def first_tokens(stack: Stack, rates: Rates, known: Times) -> Array:
    """TTFT of all rows at given rates."""
    parts = (stack.layers, known.step_s, known.prefill_s, stack.others)
    layers, step, prefill, others = parts
    return first_token_work_s(rates, layers, step, prefill, others)


class Fit:
    """The rows and everything about them that no factor changes."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.measured = tuple(measured)
        self.stack = stack_of(measured)
        self.table = RateTable(measured, NAMES)
        keys = [one.group for one in measured]
        self.groups = list(dict.fromkeys(keys))
        place = {key: number for number, key in enumerate(self.groups)}
        self.group_of = np.array([place[key] for key in keys])
        self.start = np.log([*(v for v, _ in (STEP | FIRST).values()), *FIXED.values()])

    def solve(self, seen: Array) -> Array:
        """Logarithms of all factors, fitted to the rows that `seen` marks."""
        logs = self._part(self.start, seen, slice(0, len(STEP)), self._step_errors, STEP_PULL)
        last = slice(len(STEP), len(STEP) + len(FIRST))
        return self._part(logs, seen, last, self._first_errors, FIRST_PULL)

    def predicted(self, logs: Array) -> tuple[Array, Array]:
        """TPOT and TTFT of all rows."""
        rates = self.table.at(logs)
        known = times(self.stack, rates)
        return known.tpot_s, first_tokens(self.stack, rates, known)

    def unseen(self) -> tuple[Array, Array]:
        """TPOT and TTFT of all rows, each by a fit that did not see its combination."""
        tpot, ttft = np.zeros(len(self.measured)), np.zeros(len(self.measured))
        for number in range(len(self.groups)):
            left_out = self.group_of == number
            own, first = self.predicted(self.solve(~left_out))
            tpot[left_out], ttft[left_out] = own[left_out], first[left_out]
        return tpot, ttft

    def _step_errors(self, logs: Array) -> Array:
        known = times(self.stack, self.table.at(logs))
        return np.log(known.tpot_s / self.stack.tpot_s)

    def _first_errors(self, logs: Array) -> Array:
        rates = self.table.at(logs)
        ratio = first_tokens(self.stack, rates, times(self.stack, rates)) / self.stack.ttft_s
        # Half logarithm, half relative: long tails of measured waits pull a log fit too high.
        return np.where(ratio < 1.0, ratio - 1.0, 0.5 * np.log(ratio) + 0.5 * (ratio - 1.0))

    def _part(self, logs: Array, seen: Array, part: slice, errors: Any, pull: float) -> Array:
        """The logarithms with one part of them fitted."""
        spread = np.array([s for _, s in (STEP | FIRST).values()])[part]
        weights = self._weights(seen)

        def residuals(values: Array) -> Array:
            full = logs.copy()
            full[part] = values
            error = errors(full)[seen] / CORNER
            loss = np.sqrt(2.0 * (np.sqrt(1.0 + error**2) - 1.0) * CORNER * weights / seen.sum())
            return np.concatenate([loss, 0.3 * pull**0.5 * (values - logs[part]) / spread])

        found = logs.copy()
        found[part] = least_squares(residuals, logs[part], max_nfev=60).x
        return found

    def _weights(self, seen: Array) -> Array:
        of = self.group_of[seen]
        weights = np.bincount(of, minlength=len(self.groups))[of] ** -0.5
        return weights / weights.mean()
