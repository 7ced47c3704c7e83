"""`motley solve TABLE.json`: the planner core on a bare column table."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import (
    InputError,
    columns,
    emit,
    money,
    number,
    percent,
    say,
    unproved_lines,
)
from motley_operator.cli.texts import read_text
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import CascadeDemand, FleetTable, RequestClass
from motley_planner.errors import SnapshotError
from motley_planner.solution_json import solution_to_dict
from motley_planner.solver.clock import CLOCK
from motley_planner.table_json import read_request

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers

DONE, FALLS_SHORT, NO_PLAN = 0, 1, 3
READING_S = 0.3  # less is no part of anybody's time limit
WARNINGS = 5  # of one kind
SERVED_TOLERANCE = 1e-6  # of a rate


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "solve",
        help="the planner core on a bare column table",
        description="Solves a column table (docs/reference/solve.md) and prints the plan.",
    )
    parser.add_argument("table", metavar="TABLE.json", help="the table, or - for stdin")
    parser.add_argument(
        "--certificate",
        action="store_true",
        help="prices of limits that prove each level's bound without a solver, whatever they"
        " take; without it only where they take little",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; 1 if it falls short, 3 if there is none in time."""
    from motley_planner import strategies
    from motley_planner.formulations.certificate import (
        leaving_time,
        with_cheap_proofs,
        with_proofs,
    )

    begin = time.monotonic()
    text = read_text(args.table)
    reading = time.monotonic(), time.process_time()
    try:
        table, strategy = read_request(text)
        CLOCK.measure_slowness(time.monotonic() - reading[0], time.process_time() - reading[1])
        for warning in homeless(table):
            say(args, f"motley: {args.table}: {warning}")
        searched = table if args.certificate else leaving_time(table)
        solution = strategies.run(strategy, _without(searched, time.monotonic() - begin))
        if args.certificate:
            solution = with_proofs(table, solution, table.time_limit_s, use_worker=False)
        else:
            left_s = table.time_limit_s - (time.monotonic() - begin)
            solution = with_cheap_proofs(table, solution, left_s, use_worker=False)
    except SnapshotError as error:
        raise InputError(args.table, str(error)) from error
    emit(args, solution_to_dict(solution), lambda: _show(solution))
    if solution.status == "no_solution":
        say(args, f"motley: no plan within {table.time_limit_s:g} s; raise time_limit_s")
    return exit_status(table, solution)


def homeless(table: FleetTable) -> list[str]:
    """Warnings of GPUs and zones that columns name and no node has: such columns never run."""
    previous = table.previous
    nodes = table.nodes if previous is None else previous.nodes
    known = {(node.gpu, node.zone) for node in nodes}
    unknown = {(f.gpu, c.zone) for c in table.columns for f in c.fragments} - known
    named: dict[tuple[str, str], list[str]] = {}
    for column in table.columns if unknown else ():
        for kind in dict.fromkeys((f.gpu, column.zone) for f in column.fragments):
            if kind not in known:
                named.setdefault(kind, []).append(column.id)
    found = [
        f"columns[{ids[0]!r}]: no node has GPU {gpu!r} in zone {zone!r}"
        + (f", nor for {len(ids) - 1} more columns" if len(ids) > 1 else "")
        for (gpu, zone), ids in named.items()
    ]
    more = [f"and {len(found) - WARNINGS} more such kinds"] if len(found) > WARNINGS else []
    return found[:WARNINGS] + more


def _without(table: FleetTable, seconds: float) -> FleetTable:
    """The table with what reading a very large one took taken off its time limit."""
    if seconds < READING_S:
        return table
    least_s = min(READING_S, table.time_limit_s)
    return replace(table, time_limit_s=max(least_s, table.time_limit_s - seconds))


def exit_status(table: FleetTable, solution: Solution) -> int:
    """0 done, 1 falls short (infeasible, or goodput leaves demand unserved), 3 no plan."""
    if solution.status == "no_solution":
        return NO_PLAN
    if solution.status == "infeasible":
        return FALLS_SHORT
    demands: tuple[RequestClass | CascadeDemand, ...] = (*table.classes, *table.cascades)
    rates = {d.name: d.requests_per_second for d in demands}
    unserved = (solution.unserved or {}).items()
    short = any(left > SERVED_TOLERANCE * rates[name] for name, left in unserved)
    return FALLS_SHORT if table.objective == "goodput" and short else DONE


def _show(solution: Solution) -> str:
    proof = f"bound {number(solution.bound, 6)}, gap {percent(solution.gap)}"
    cost = f"{money(solution.price_usd_per_hour)}, {solution.solve_seconds:.2f} s"
    lines = [f"{solution.status}: {number(solution.objective, 6)} ({proof}), {cost}"]
    rates: dict[str, list[str]] = {}
    for rate in solution.rates:
        text = f"{rate.request_class} {number(rate.requests_per_second)}/s"
        rates.setdefault(rate.column, []).append(text)
    rows: list[Any] = [("COLUMN", "REPLICAS", "SERVES")]
    rows += [
        (r.column, str(r.count), ", ".join(rates.get(r.column, ["-"]))) for r in solution.replicas
    ]
    lines.append(columns(rows, right=frozenset({1})))
    if solution.placement:
        places: list[Any] = [("NODES", "COLUMN", "KEPT")]
        places += [(", ".join(p.nodes), p.column, p.kept or "new") for p in solution.placement]
        lines.append(columns(places))
    lines += [
        f"{c.level}: no plan is beyond {number(c.bound, 6)}, by {len(c.multipliers)} prices"
        for c in solution.certificates
    ]
    lines += unproved_lines(solution.levels)
    lines += [
        f"short of {s.what} by {number(s.how_much)}: {s.binding}" for s in solution.shortfalls
    ]
    return "\n".join(lines)
