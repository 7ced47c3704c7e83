"""Draws a PLAN.json as SVG: a row a node, a box a GPU, a color a resource.

python -m e2e.draw_plan PLAN.json > docs/pictures/plan.svg
"""

from __future__ import annotations

import sys
from collections import defaultdict

from motley_operator.cli.plan_file import PlanFile, read_plan
from motley_operator.cli.plan_table import headline

COLORS = ("#4269d0", "#efb118", "#6cc5b0", "#ff725c", "#a463f2", "#97bbf5")
FREE = "#e7e7ea"
FONT = 'font-family="sans-serif" font-size="13"'
BOX, GAP, ROW, LEFT, TOP = 34, 4, 42, 250, 64


def main() -> int:
    """Prints the picture of the plan in the file named on the command line."""
    print(draw(read_plan(sys.argv[1])))
    return 0


def draw(content: PlanFile) -> str:
    """The SVG text."""
    keys = [part.key for part in content.plan.slices]
    color = {key: COLORS[i % len(COLORS)] for i, key in enumerate(keys)}
    held: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for part in content.plan.slices:
        for replica in part.replicas:
            for node in replica.nodes:
                held[node].append((part.key, replica.stage, replica.tensor_parallel))
    seats = sorted(content.seats, key=lambda s: (-s.gpus, s.gpu, s.node))
    width = LEFT + max((seat.gpus for seat in seats), default=1) * (BOX + GAP) + 20
    width = max(width, 620)
    height = TOP + len(seats) * ROW + 30 + 24 * len(keys)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="20" y="34" font-size="15">{headline(content.plan).split(" | ")[0]}</text>',
    ]
    for row, seat in enumerate(seats):
        y = TOP + row * ROW
        parts.append(f'<text x="20" y="{y + 15}">{seat.node}</text>')
        place = f"{seat.gpu}, {seat.zone} {seat.capacity_type}"
        parts.append(f'<text x="20" y="{y + 31}" font-size="11" fill="#777">{place}</text>')
        column = 0
        for key, stage, gpus in sorted(held[seat.node]):
            parts.append(_replica(column, y, gpus, color[key], stage))
            column += gpus
        for free in range(column, seat.gpus):
            parts.append(_box(free, y, 1, FREE))
    for row, part in enumerate(content.plan.slices):
        y = TOP + len(seats) * ROW + 20 + 24 * row
        parts.append(
            f'<rect x="20" y="{y}" width="16" height="16" rx="3" fill="{color[part.key]}"/>'
        )
        text = f"{part.key}, ${part.price_usd_per_hour:.2f}/h"
        parts.append(f'<text x="44" y="{y + 13}">{text}</text>')
    return "\n".join([*parts, "</svg>"])


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
    return _box(column, y, gpus, fill) + text + f"{label}</text>"


if __name__ == "__main__":
    sys.exit(main())
