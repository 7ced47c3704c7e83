"""`motley draw PLAN.json`: the plan as an SVG picture: nodes, who sits where, and how requests flow.

Left, a row a node and a box a replica; right, one line a resource: requests enter, pass the stages
with the share that gets there, and each stage names the replicas that serve it.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from motley_operator.cli.output import money, number
from motley_operator.cli.plan_file import PlanFile, Seat, read_plan
from motley_operator.cli.plan_table import headline, replica_text

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_planner.domain.plan import Slice

COLORS = ("#4269d0", "#b4780b", "#2f8f7d", "#d1495b", "#8a4fd3", "#5b7f95", "#7a8b00", "#a3553a")
FREE = "#e7e7ea"
FONT = 'font-family="sans-serif" font-size="13"'
BOX, GAP, ROW, LEFT, TOP = 34, 4, 42, 250, 64
STAGE_WIDTH, STAGE_GAP, FLOW_ROW, FLOW_LEFT_PAD = 190, 70, 96, 60
MOST_NODES = 60  # more would be no picture; the text says how many are left out


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "draw",
        help="a picture of a plan as SVG",
        description="Draws a plan that `motley plan -o json` wrote: nodes, replicas, request flows.",
    )
    parser.add_argument("plan", metavar="PLAN.json")
    parser.add_argument("--file", metavar="FILE.svg", help="where to write (default: stdout)")
    # An SVG is the one form there is.
    parser.add_argument("-o", "--output", choices=("svg",), default="svg", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Draws; always 0."""
    picture = draw(read_plan(args.plan))
    if args.file:
        Path(args.file).write_text(picture + "\n", encoding="utf-8")
    else:
        print(picture)
    return 0


def draw(content: PlanFile) -> str:
    """The SVG text."""
    slices = content.plan.slices
    color = {part.key: COLORS[i % len(COLORS)] for i, part in enumerate(slices)}
    seats = sorted(content.seats, key=lambda s: (-s.gpus, s.gpu, s.node))
    shown = seats[:MOST_NODES]
    middle = LEFT + max((seat.gpus for seat in shown), default=1) * (BOX + GAP) + FLOW_LEFT_PAD
    stages = max((len(_stages(part)) for part in slices), default=1)
    width = middle + 120 + stages * (STAGE_WIDTH + STAGE_GAP)
    height = TOP + max(len(shown) * ROW + 30, len(slices) * FLOW_ROW) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#777"/></marker></defs>'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(20, 34, headline(content.plan).split(" | ")[0], size=15),
        *_nodes(content, shown, color),
    ]
    if len(seats) > len(shown):
        left_out = f"and {len(seats) - len(shown)} more nodes"
        parts.append(_text(20, TOP + len(shown) * ROW + 15, left_out, fill="#777"))
    for number_, part in enumerate(slices):
        parts += _flow(part, middle, TOP + number_ * FLOW_ROW, color[part.key])
    return "\n".join([*parts, "</svg>"])


def _nodes(content: PlanFile, shown: list[Seat], color: dict[str, str]) -> Iterable[str]:
    held: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for part in content.plan.slices:
        for replica in part.replicas:
            for rank, node in enumerate(replica.nodes):
                held[node].append((part.key, replica.stage, replica.gpus_on(rank)))
    for row, seat in enumerate(shown):
        y = TOP + row * ROW
        yield _text(20, y + 15, seat.node)
        place = f"{seat.gpu}, {seat.zone} {seat.capacity_type}"
        yield _text(20, y + 31, place, size=11, fill="#777")
        column = 0
        for key, stage, gpus in sorted(held[seat.node]):
            yield _replica(column, y, gpus, color[key], stage)
            column += gpus
        for free in range(column, seat.gpus):
            yield _box(free, y, 1, FREE)


def _flow(part: Slice, x: int, y: int, color: str) -> Iterable[str]:
    """requests/s -> stage -> stage, with what each stage gets and on what it runs."""
    yield _text(x, y + 4, f"{part.key}, {money(part.price_usd_per_hour)}", fill=color, weight=True)
    asked = part.requests_per_second
    entering = f"{number(part.served_requests_per_second)}/s"
    if part.steps_per_hour is not None:
        entering = f"{number(part.steps_per_hour)} steps/h"
    yield _text(x, y + 46, entering)
    if part.served_requests_per_second < asked * (1 - 1e-6) and part.steps_per_hour is None:
        yield _text(x, y + 62, f"of {number(asked)} asked", size=11, fill="#d1495b")
    left = x + 90
    for name, replicas in _stages(part).items():
        rate = sum(sum(one.rates.values()) for one in part.replicas if one.stage == name)
        yield (
            f'<line x1="{left - 28}" y1="{y + 42}" x2="{left - 4}" y2="{y + 42}" '
            'stroke="#777" marker-end="url(#tip)"/>'
        )
        yield (
            f'<rect x="{left}" y="{y + 14}" width="{STAGE_WIDTH}" height="58" rx="6" fill="white" '
            f'stroke="{color}" stroke-width="1.5"/>'
        )
        title = name if part.steps_per_hour is not None else f"{name}: {number(rate)}/s"
        yield _text(left + 10, y + 32, title, weight=True)
        for line, (what, count) in enumerate(replicas.most_common(2)):
            more = "" if line == 0 or len(replicas) <= 2 else f" and {len(replicas) - 2} more"
            yield _text(left + 10, y + 48 + 15 * line, f"{count} x {what}{more}", size=11)
        left += STAGE_WIDTH + STAGE_GAP - 30


def _stages(part: Slice) -> dict[str, Counter[str]]:
    """Stage -> its replicas counted by size and GPU, in the order of the plan's groups by rate."""
    found: dict[str, Counter[str]] = {}
    rate: dict[str, float] = defaultdict(float)
    for one in part.replicas:
        what = replica_text(one)
        found.setdefault(one.stage, Counter())[what] += 1
        rate[one.stage] += sum(one.rates.values()) if one.role == "serve" else 0.0
    # Requests enter where most of them are seen; a later stage sees only what was escalated.
    return {stage: found[stage] for stage in sorted(found, key=lambda name: (-rate[name], name))}


def _text(
    x: float, y: float, words: str, *, size: int = 13, fill: str = "#222", weight: bool = False
) -> str:
    bold = ' font-weight="bold"' if weight else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"{bold}>{escape(words)}</text>'
    )


def _box(column: int, y: int, gpus: int, fill: str) -> str:
    x, width = LEFT + column * (BOX + GAP), gpus * (BOX + GAP) - GAP
    return f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="5" fill="{fill}"/>'


def _replica(column: int, y: int, gpus: int, fill: str, stage: str) -> str:
    middle = LEFT + column * (BOX + GAP) + (gpus * (BOX + GAP) - GAP) / 2
    size = 12 if gpus > 1 else 9
    label = stage if gpus > 1 else stage[:6]
    text = (
        f'<text x="{middle:g}" y="{y + 21}" font-size="{size}" text-anchor="middle" fill="white">'
    )
    return _box(column, y, gpus, fill) + text + f"{escape(label)}</text>"
