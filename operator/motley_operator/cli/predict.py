"""`motley predict ROWS.csv`: the cost model on rows of configurations."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import columns, emit, say
from motley_operator.cli.predict_rows import Table, read_table

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_planner.prediction import Prediction

DESCRIPTION = """\
Predicts TTFT, TPOT and throughput of each row of a CSV table (docs/reference/predict.md). Columns:
model, system, isl, osl, concurrency, tp_size; precision, backend, pp_size, attention_dp,
moe_tp_size, moe_ep_size and prefix_hit_rate where present; others are passed through.

  motley predict rows.csv > predicted.csv
"""
ADDED = (
    "predicted_ttft_ms",
    "predicted_tpot_ms",
    "predicted_tokens_per_s_per_gpu",
    "tpot_low_ms",
    "tpot_high_ms",
    "refused",
)


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "predict",
        help="the cost model on rows of configurations",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "rows", metavar="ROWS.csv", help="the table (.csv, .csv.gz), or - for stdin"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("csv", "json", "yaml", "table"),
        default="csv",
        help="form of the result (default: csv)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the rows with predictions; 2 if the table cannot be read."""
    from motley_planner.catalog import load_catalog
    from motley_planner.prediction import Prediction, predict

    table = read_table(args.rows)
    good = [row for row in table.configurations if not isinstance(row, str)]
    found = iter(predict(good, load_catalog()))
    results = [
        Prediction(refused=row) if isinstance(row, str) else next(found)
        for row in table.configurations
    ]
    refused = sum(1 for one in results if one.refused)
    if refused:
        say(args, f"motley: {refused} of {len(results)} rows refused; the column says why")
    if args.output == "csv":
        sys.stdout.write(to_csv(table, results))
    else:
        emit(args, to_dicts(table, results), lambda: _show(table, results))
    return 0


def values(result: Prediction) -> tuple[float | str | None, ...]:
    """The added columns of one row, in the order of ADDED, in milliseconds."""
    return (
        _milliseconds(result.ttft_s),
        _milliseconds(result.tpot_s),
        _rounded(result.tokens_per_s_per_gpu),
        _milliseconds(result.tpot_low_s),
        _milliseconds(result.tpot_high_s),
        result.refused,
    )


def to_csv(table: Table, results: Sequence[Prediction]) -> str:
    """The rows as they came, with the added columns at the end."""
    text = io.StringIO()
    kept = [name for name in table.header if name not in ADDED]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*kept, *ADDED))
    for cells, result in zip(table.rows, results, strict=True):
        new = ("" if value is None else value for value in values(result))
        writer.writerow((*(cells[name] for name in kept), *new))
    return text.getvalue()


def to_dicts(table: Table, results: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The rows as mappings: cells as they came, predictions as numbers or null."""
    return [
        {**cells, **dict(zip(ADDED, values(result), strict=True))}
        for cells, result in zip(table.rows, results, strict=True)
    ]


def _show(table: Table, results: Sequence[Prediction]) -> str:
    rows: list[Sequence[str]] = [("MODEL", "SYSTEM", "TTFT", "TPOT", "TOKENS/S/GPU", "REFUSED")]
    for cells, result in zip(table.rows, results, strict=True):
        ttft, tpot, rate, *_ = values(result)
        shown = ("-" if value is None else f"{value:.4g}" for value in (ttft, tpot, rate))
        rows.append((cells["model"], cells["system"], *shown, result.refused))
    return columns(rows, right=frozenset({2, 3, 4}))


def _milliseconds(value_s: float | None) -> float | None:
    return None if value_s is None else _rounded(value_s * 1e3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")
