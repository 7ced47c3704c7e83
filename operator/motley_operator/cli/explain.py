"""`motley explain PLAN.json`: what binds the plan, what it refused, what would help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from motley_operator.cli import plan_table
from motley_operator.cli.output import columns, emit, number, percent, plain
from motley_operator.cli.plan_file import PlanFile, read_plan

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "explain",
        help="what binds a plan, what was refused, and what would help",
        description="Explains a plan that `motley plan -o json` wrote.",
    )
    parser.add_argument("plan", metavar="PLAN.json")


def run(args: argparse.Namespace) -> int:
    """Explains; 0 whatever the plan is like, for reading it is what was asked."""
    content = read_plan(args.plan)
    emit(args, explanation(content), lambda: render(content))
    return 0


def explanation(content: PlanFile) -> dict[str, Any]:
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
        "full": _full(content),
        "unknown_gpus": plain(content.unknown_gpus),
    }


def render(content: PlanFile) -> str:
    """The explanation as text."""
    blocks = [plan_table.headline(content.plan), _levels(content)]
    for part in content.plan.slices:
        lines = [plan_table.slice_line(part)]
        lines += [f"  binds: {binding}" for binding in part.binding]
        lines += [f"  promises: {plan_table.promise_text(one)}" for one in part.promises]
        lines += plan_table.refusal_lines(part.refusals)
        if not part.binding and not part.refusals:
            lines.append("  nothing binds: more demand would still be served")
        blocks.append("\n".join(lines))
    for entry in content.rejected:
        lines = [f"{entry.key}: not planned", *plan_table.refusal_lines(entry.refusals)]
        blocks.append("\n".join(lines))
    if full := _full(content):
        blocks.append(f"No GPU left of: {', '.join(full)}")
    return "\n\n".join(blocks)


def _levels(content: PlanFile) -> str:
    rows = [("LEVEL", "REACHED", "NO PLAN CAN PASS", "GAP")]
    for level in content.plan.levels:
        values = (number(level.value, 5), number(level.bound, 5), percent(level.gap))
        rows.append((level.name, *values))
    text = "Decided level by level; a lower one never gives up what a higher one reached:\n\n"
    return text + columns(rows, right=frozenset({1, 2, 3}), indent=2)


def _full(content: PlanFile) -> list[str]:
    return [
        f"{row.gpu} {row.capacity_type} in {row.zone}" for row in content.inventory if not row.free
    ]
