"""Every strategy on the test corpus, side by side: `python -m tests.bench.strategies [WORD] [--write]`.

One line a table and strategy: CPU seconds, the levels' values, and the share of exact's first
level that it reaches (for prices: exact's price over its price). The last table sums up. WORD
keeps the tables that have it in their name.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import dataclass

from tests.bench.page import put

from motley_planner.strategies.views import is_better
from motley_planner.testing.contest import OTHERS, Entry, enter, exact_at_least_as_good, exact_entry
from motley_planner.testing.corpus import Case, structured_cases

SEEDS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy on one table beside exact."""

    case: str
    entry: Entry
    share: float | None
    exact_is_as_good: bool


def rows_of(case: Case) -> list[Row]:
    """Exact first (the best of its runs on no more CPU than others took), then who applies."""
    first = best = exact_entry(case.table, 1.0)
    found: list[tuple[Entry, Entry | None]] = []
    for name in OTHERS:
        entry = enter(name, case.table)
        if entry.refused is None:
            exact = exact_at_least_as_good(case.table, entry, first)
            found.append((entry, exact))
            if exact is not None and is_better(exact.values, best.values):
                best = exact
    rows = [Row(case.name, best, 1.0, True)]
    return rows + [
        Row(case.name, entry, share(entry, best), exact is not None) for entry, exact in found
    ]


def share(entry: Entry, exact: Entry) -> float | None:
    """Share of exact's objective reached: of the first level, or of the price where it is a tie."""
    if entry.values is None or exact.values is None:
        return None
    for mine, its in zip(entry.values, exact.values, strict=True):
        if abs(mine - its) > 1e-6 * max(1.0, abs(its)):
            return its / mine if its < 0 else mine / its if its else None
    return 1.0


def line(row: Row) -> str:
    """The row as text."""
    values = " ".join(f"{v:.5g}" for v in row.entry.values or ()) or "no plan"
    reached = "-" if row.share is None else f"{100 * row.share:.1f} %"
    worse = "" if row.exact_is_as_good else "  EXACT IS WORSE"
    said = f"  {row.entry.complaints}" if row.entry.complaints else ""
    cells = f"{row.entry.strategy:<15} {row.entry.cpu_s:>7.2f} s  {reached:>8}  {values}"
    return f"{row.case:<40} {cells}{worse}{said}"


def summary(rows: list[Row]) -> list[str]:
    """A line a strategy: tables, plans, geometric mean of shares, ties with exact, CPU seconds."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row.entry.strategy].append(row)
    out = [
        "",
        "| strategy | tables | plans | geometric mean of exact | equal to exact | median CPU | worst CPU |",
    ]
    out.append("|---|---|---|---|---|---|---|")
    for name, mine in by_name.items():
        shares = [r.share for r in mine if r.share is not None and r.share > 0]
        mean = math.exp(sum(map(math.log, shares)) / len(shares)) if shares else 0.0
        equal = sum(s >= 1 - 1e-6 for s in shares)
        cpu = sorted(r.entry.cpu_s for r in mine)
        plans = sum(r.entry.values is not None for r in mine)
        out.append(
            f"| {name} | {len(mine)} | {plans} | {100 * mean:.1f} % | {equal} "
            f"| {cpu[len(cpu) // 2]:.2f} s | {cpu[-1]:.2f} s |"
        )
    return out


def main(words: list[str] | None = None) -> int:
    """Prints the table; 1 where the checker complains or exact was worse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("word", nargs="*", help="in the names of the tables")
    parser.add_argument("--write", action="store_true", help="put the summary into the page")
    options = parser.parse_args(words)
    rows: list[Row] = []
    for case in structured_cases(SEEDS):
        if all(word in case.name for word in options.word):
            for row in rows_of(case):
                print(line(row), flush=True)
                rows.append(row)
    text = "\n".join(summary(rows))
    print(text)
    if options.write:
        put("strategies", text)
    return int(any(r.entry.complaints or not r.exact_is_as_good for r in rows))


if __name__ == "__main__":
    sys.exit(main())
