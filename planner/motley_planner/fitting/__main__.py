"""`python -m motley_planner.fitting ROWS`: fits, scores unseen combinations, and writes if asked."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from motley_planner.catalog import load_catalog
from motley_planner.domain.hardware import Catalog
from motley_planner.fitting.fit import NAMES, Fit
from motley_planner.fitting.priors import ALL
from motley_planner.fitting.report import Outcome, fitted_toml, report_markdown
from motley_planner.fitting.rows import read_measured

BEGIN, END = "<!-- written by make fit: begin -->", "<!-- written by make fit: end -->"


def main() -> int:
    """0; 2 where the rows cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m motley_planner.fitting", description=__doc__)
    parser.add_argument("rows", type=Path, metavar="ROWS.csv.gz", help="measured rows")
    parser.add_argument("--factors", type=Path, metavar="FITTED.toml", help="write the factors")
    parser.add_argument("--report", type=Path, metavar="PAGE.md", help="write the tables there")
    args = parser.parse_args()
    if not args.rows.exists():
        print(f"{args.rows}: no such file; name the measured rows", file=sys.stderr)
        return 2
    outcome = fit_rows(args.rows, load_catalog())
    text = report_markdown(outcome)
    print(text)
    if args.factors:
        args.factors.write_text(fitted_toml(outcome), encoding="utf-8")
    if args.report:
        page = args.report.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        tail = rest.split(END)[1]
        args.report.write_text(f"{head}{BEGIN}\n{text}{END}{tail}", encoding="utf-8")
    return 0


def fit_rows(rows: Path, catalog: Catalog) -> Outcome:
    """The fit to a file of measured rows; the factors of the catalog do not enter it."""
    assert catalog.efficiency is not None, "load_catalog() always gives the factors"
    bare = replace(catalog, efficiency=replace(catalog.efficiency, factors=ALL))
    fit = Fit(read_measured(rows, bare))
    logs = fit.solve(np.ones(len(fit.measured), bool))
    return Outcome(
        rows=fit.measured,
        group_of=fit.group_of,
        logs=dict(zip(NAMES, logs.tolist(), strict=True)),
        seen=fit.predicted(logs),
        unseen=fit.unseen(),
        measured=(fit.stack.tpot_s, fit.stack.ttft_s),
    )


if __name__ == "__main__":
    sys.exit(main())
