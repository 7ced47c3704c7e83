"""`motley explain PLAN.json`: what binds the plan, what it refused, what a change would be worth."""

from __future__ import annotations

import argparse
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from motley_operator.cli import plan_table
from motley_operator.cli.corrections import learned_block
from motley_operator.cli.output import columns, emit, number, percent, plain, say
from motley_operator.cli.plan import seconds
from motley_operator.cli.plan_file import PlanFile, read_plan
from motley_operator.cli.plan_table import WIDTH
from motley_operator.cli.what_if import catalog_of, limited

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_planner.planning.worth import Worth

MOST_TIME_LIMIT_S = 2.0  # of each of a dozen plans, which begin from the one that is explained


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "explain",
        help="what binds a plan, what was refused, and what would help",
        description="Explains a plan that `motley plan -o json` wrote, and plans again with one "
        "node, one dollar, 50 ms or one point of the quality floor more to say what each is worth.",
    )
    parser.add_argument("plan", metavar="PLAN.json")
    parser.add_argument("--no-worth", action="store_true", help="do not plan again")
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="10s",
        help=f"of each plan (default: the plan's own, at most {MOST_TIME_LIMIT_S:g}s)",
    )


def run(args: argparse.Namespace) -> int:
    """Explains; 0 whatever the plan is like, for reading it is what was asked."""
    content = read_plan(args.plan)
    found = () if args.no_worth else _worths(args, content)
    emit(args, explanation(content, found), lambda: render(content, found))
    return 0


def _worths(args: argparse.Namespace, content: PlanFile) -> tuple[Worth, ...]:
    from motley_planner.planning.worth import worths

    problem = content.question(args.plan)
    limit_s = args.time_limit or min(problem.snapshot.time_limit_s, MOST_TIME_LIMIT_S)
    problem, said = limited(problem, limit_s), partial(say, args)
    return worths(
        problem.snapshot,
        catalog_of(problem),
        content.plan,
        lambda text: said(f"motley: planning: {text}"),
    )


def explanation(content: PlanFile, found: tuple[Worth, ...] = ()) -> dict[str, Any]:
    """The levels of the objective and, for each resource, what binds and what is refused."""
    plan = content.plan
    return {
        "status": plan.status,
        "proof": plan_table.proof(plan),
        "levels": plain(plan.levels),
        "resources": [
            {
                "key": part.key,
                "binding": list(part.binding),
                "refusals": plain(part.refusals),
                "promises": plain(part.promises),
            }
            for part in plan.slices
        ]
        + [
            {"key": entry.key, "binding": [], "refusals": plain(entry.refusals), "promises": []}
            for entry in content.rejected
        ],
        "worth": plain(found),
        "learned": plain(content.problem.learned if content.problem is not None else ()),
        "full": _full(content),
        "unknown_gpus": plain(content.unknown_gpus),
    }


def render(content: PlanFile, found: tuple[Worth, ...] = ()) -> str:
    """The explanation as text."""
    blocks = [plan_table.headline(content.plan), _levels(content)]
    for part in content.plan.slices:
        lines = [plan_table.slice_line(part)]
        lines += [f"  binds: {binding}" for binding in part.binding]
        lines += [f"  promises: {plan_table.promise_text(one)}" for one in part.promises]
        lines += plan_table.refusal_lines((*part.refusals, *part.unpromised))
        if not part.binding and not part.refusals:
            lines.append("  nothing binds: more demand would still be served")
        blocks.append("\n".join(lines))
    for entry in content.rejected:
        lines = [f"{entry.key}: not planned", *plan_table.refusal_lines(entry.refusals)]
        blocks.append("\n".join(lines))
    if learned := learned_block(content):
        blocks.append(learned)
    if full := _full(content):
        blocks.append(f"No GPU left of: {', '.join(full)}")
    if found:
        blocks.append(_worth_table(found))
    return "\n\n".join(blocks)


def _worth_table(found: tuple[Worth, ...]) -> str:
    rows = [("CHANGE", "GAINS", "PRICE", "")]
    idle = [one.change for one in found if one.solved and not one.is_something]
    for one in found:
        if one.change in idle:
            continue
        words = [f"{key} {rate:+.3g}/s" for key, rate in one.gained.items()]
        words += [f"{key} {share:+.1%} after a loss" for key, share in one.after_loss.items()]
        gains = ", ".join(words)
        price = f"{one.price_usd_per_hour:+,.2f} $/h" if one.price_usd_per_hour else ""
        sure = "proved" if one.proved else "seen, not proved"
        row = (gains, price, sure) if one.solved else ("no plan in time", "", "")
        rows.append((one.change, *row))
    lines = ["What one change alone would be worth, found by planning again:", ""]
    lines += (
        [columns(rows, indent=2)] if len(rows) > 1 else ["  none of those tried gains anything"]
    )
    if idle:
        lines += ["", *wrap(f"No gain found: {', '.join(idle)}", WIDTH, subsequent_indent="  ")]
    return "\n".join(lines)


def _levels(content: PlanFile) -> str:
    rows = [("LEVEL", "REACHED", "NO PLAN CAN PASS", "GAP", "CERTIFIED")]
    for level in content.plan.levels:
        value, bound, certified = (
            number(each, 5) for each in (level.value, level.bound, level.certified_bound)
        )
        values = (value, bound, percent(level.gap), certified)
        rows.append((level.name, *values))
    text = "Decided level by level; a lower one never gives up what a higher one reached:\n\n"
    return text + columns(rows, right=frozenset({1, 2, 3, 4}), indent=2)


def _full(content: PlanFile) -> list[str]:
    return [
        f"{row.gpu} {row.capacity_type} in {row.zone}" for row in content.inventory if not row.free
    ]
