"""The frontier as SVG: quality against dollars per 1,000 questions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from motley_planner.calibrating.frontier import Frontier
from motley_planner.calibrating.thresholds import Choice

WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 720, 440, 64, 56, 620, 310
LABELED = (0.25, 0.5, 0.75)  # of the fixed thresholds: more would cover each other
CASCADE, SINGLE, STATIC, CHOSEN = "#0b6e99", "#6f6f6f", "#c2571a", "#a2191f"


def picture_of(title: str, made: Frontier, chosen: Sequence[Choice] = ()) -> str:
    """The SVG text; `chosen` are marked on the curve."""
    points = [(each.usd_per_question or 0.0, each.quality) for each in made.curve]
    singles = list(made.singles.values())
    statics = [(each.usd_per_question or 0.0, each.quality) for each in made.static.values()]
    every = points + singles + statics
    axes = _Axes(
        max(usd for usd, _ in every) * 1.06,
        min(quality for _, quality in every) - 0.02,
        max(quality for _, quality in every) + 0.02,
    )
    body = [_text(LEFT, 24, title, 15), *_legend(), axes.drawn()]
    body.append(axes.line(singles, SINGLE, dashed=True))
    body.append(axes.line(points, CASCADE))
    for name, point in made.singles.items():
        body.append(axes.dot(point, SINGLE, name))
    for limit, point in zip(made.static, statics, strict=True):
        body.append(axes.dot(point, STATIC, f"{limit:g}" if limit in LABELED else ""))
    for each in chosen:
        body.append(axes.dot((each.usd_per_question or 0.0, each.quality), CHOSEN, ""))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


class _Axes:
    """Dollars to the right from 0, quality upwards."""

    def __init__(self, most_usd: float, low: float, high: float) -> None:
        self._usd, self._low, self._high = most_usd, low, high

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        usd, quality = point
        share = (quality - self._low) / (self._high - self._low)
        return LEFT + PLOT_WIDTH * usd / self._usd, TOP + PLOT_HEIGHT * (1.0 - share)

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> str:
        shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._at, points))
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        return (
            f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>'
        )

    def dot(self, point: tuple[float, float], colour: str, name: str) -> str:
        x, y = self._at(point)
        # Names at the right edge go to the left of their dot.
        end = x > LEFT + 0.8 * PLOT_WIDTH
        label = _text(x - 8 if end else x + 8, y + 14, name, 11, "end" if end else "start")
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' + label

    def drawn(self) -> str:
        bottom = TOP + PLOT_HEIGHT
        parts = [
            f'<path d="M{LEFT} {TOP}V{bottom}H{LEFT + PLOT_WIDTH}" stroke="#333" fill="none"/>'
        ]
        for step in range(5):
            quality = self._low + step / 4 * (self._high - self._low)
            y = TOP + PLOT_HEIGHT * (1.0 - step / 4)
            parts.append(_text(LEFT - 6, y + 4, f"{quality:.1%}", 10, "end"))
            x = LEFT + PLOT_WIDTH * step / 4
            usd = 1000.0 * self._usd * step / 4
            parts.append(_text(x, bottom + 16, f"${usd:.3g}", 10, "middle"))
        middle = LEFT + PLOT_WIDTH / 2
        parts.append(_text(middle, bottom + 36, "dollars per 1,000 questions", 11, "middle"))
        return "".join(parts)


def _legend() -> list[str]:
    parts, x = [], LEFT
    for name, colour in (
        ("cascade", CASCADE),
        ("single models, and mixing them blindly", SINGLE),
        ("fixed thresholds", STATIC),
        ("chosen under a floor", CHOSEN),
    ):
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, 43, name, 11))
        x += 32 + int(6.2 * len(name))
    return parts


def _text(x: float, y: float, text: str, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">'
        f"{escape(text)}</text>"
    )
