"""The live demo as a picture: every answer's latency over time, by stage, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from e2e.live_judging import Phase
from e2e.live_story import Told

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 470, 60, 104, 80
COLORS = {"first": "#3b7dd8", "second": "#e08a2c"}
FAILED = "#c0392b"


def draw(told: Told, phases: Sequence[Phase]) -> str:
    """An SVG: time to the right, latency upwards, a line an event; below, figures by floor."""
    answers, events = told.answers, told.events
    longest = max([one.sent_s for one in answers] + [at for at, _ in events] + [1.0])
    slowest = max([one.took_s for one in answers] + [1.0])

    def x(at: float) -> float:
        return LEFT + at / longest * (WIDTH - LEFT - 20)

    def y(took: float) -> float:
        return HEIGHT - BOTTOM - took / slowest * (HEIGHT - TOP - BOTTOM)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">Latency of every answer, s</text>',
    ]
    for i, (name, color) in enumerate({**COLORS, "failed": FAILED}.items()):
        left = 330 + 110 * i
        parts.append(f'<circle cx="{left}" cy="16" r="4" fill="{color}"/>')
        parts.append(f'<text x="{left + 9}" y="20">{name}</text>')
    for step in range(5):
        value = slowest * step / 4
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#ddd"/><text x="{LEFT - 8}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:.1f}</text>'
        )
    for i, (at, text) in enumerate(events):
        is_late = x(at) > 0.6 * WIDTH  # its words go to the left of its line
        place = f'x="{x(at) - 4:.1f}" text-anchor="end"' if is_late else f'x="{x(at) + 4:.1f}"'
        parts.append(
            f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP - 10}" y2="{HEIGHT - BOTTOM}" '
            f'stroke="#999" stroke-dasharray="4 3"/><text {place} '
            f'y="{40 + 12 * (i % 6)}" font-size="11">{escape(text)}</text>'
        )
    for one in answers:
        color = FAILED if one.is_failed else COLORS.get(one.stage, "#777")
        parts.append(
            f'<circle cx="{x(one.sent_s):.1f}" cy="{y(one.took_s):.1f}" r="4" fill="{color}" '
            f'fill-opacity="0.75"><title>{one.took_s:.2f} s, {escape(one.stage)}</title></circle>'
        )
    for i, phase in enumerate(phases):
        line = HEIGHT - 28 + 16 * i
        parts.append(f'<text x="{LEFT}" y="{line}">{escape(phase.text)}</text>')
    parts.append(f'<text x="{WIDTH - 20}" y="{HEIGHT - BOTTOM + 16}" text-anchor="end">')
    parts.append(f"{longest:.0f} s</text></svg>\n")
    return "\n".join(parts)
