"""A picture of a simulation as SVG: latency distributions against targets, and how busy replicas are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from motley_planner.simulator.arrivals import Floats
from motley_planner.simulator.report import Report, Sample

WIDTH, PANEL, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 960, 320, 46, 64, 250, 200
COLOURS = ("#0b6e99", "#c2571a", "#3a7d44", "#8a3ffc", "#a2191f", "#6f6f6f")
POINTS = 120
NAMES = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "whole answer"}


def picture_of(report: Report, samples: Sequence[Sample]) -> str:
    """The SVG text: one panel a latency (share of requests by seconds), then utilisation."""
    height = TOP + PLOT_HEIGHT + 60 + 22 * (len(report.use) + 2) + 20
    verdict = "every target met" if report.is_kept else "a target is missed"
    title = f"{report.resource}: {report.answered:,} of {report.requests:,} requests, {verdict}"
    body = [_text(LEFT, 24, title, size=15)]
    body += [_legend(samples)]
    body += [_panel(index, what, report, samples) for index, what in enumerate(NAMES)]
    body += _bars(report, TOP + PLOT_HEIGHT + 64)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def _legend(samples: Sequence[Sample]) -> str:
    parts, x = [], LEFT
    for index, sample in enumerate(samples):
        name = f"{sample.stage} {sample.name}"
        parts.append(f'<rect x="{x}" y="36" width="10" height="10" fill="{_colour(index)}"/>')
        parts.append(_text(x + 14, 45, name, size=11))
        x += 30 + 7 * len(name)
    return "".join(parts)


def _panel(place: int, what: str, report: Report, samples: Sequence[Sample]) -> str:
    curves = [(index, _values(sample, what)) for index, sample in enumerate(samples)]
    curves = [(index, values) for index, values in curves if len(values)]
    limits = {a.limit_s: (a.percentile, a.wanted) for a in report.attainment if a.what == what}
    most = max(
        [float(np.quantile(values, 0.995)) for _, values in curves] + list(limits), default=1
    )
    x0, scale = LEFT + place * PANEL, PLOT_WIDTH / (1.05 * most or 1.0)
    parts = [_text(x0, TOP + 6, NAMES[what], size=12), _axes(x0, 1.05 * most)]
    for limit, (percentile, wanted) in sorted(limits.items()):
        x, y = x0 + limit * scale, _height(wanted)
        parts.append(
            f'<path d="M{x:.1f} {_height(0):.1f}V{_height(1):.1f}M{x0} {y:.1f}H{x:.1f}" '
            'stroke="#a2191f" stroke-dasharray="4 3" fill="none"/>'
        )
        parts.append(_text(x - 2, _height(1) - 3, percentile, size=10, anchor="end"))
    for index, values in curves:
        shares = np.linspace(0.0, 1.0, POINTS)
        cut = np.minimum(np.quantile(values, shares), 1.05 * most)
        points = " ".join(
            f"{x0 + value * scale:.1f},{_height(share):.1f}"
            for value, share in zip(cut, shares, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_colour(index)}" stroke-width="1.6"/>'
        )
    return "".join(parts)


def _axes(x0: float, most: float) -> str:
    bottom, top = _height(0), _height(1)
    parts = [f'<path d="M{x0} {top}V{bottom}H{x0 + PLOT_WIDTH}" stroke="#333" fill="none"/>']
    for share in (0.0, 0.5, 1.0):
        parts.append(_text(x0 - 4, _height(share) + 4, f"{share:.0%}", size=10, anchor="end"))
        x = x0 + share * PLOT_WIDTH
        parts.append(_text(x, bottom + 14, _seconds(share * most), size=10, anchor="middle"))
    return "".join(parts)


def _bars(report: Report, y: float) -> list[str]:
    parts = [_text(LEFT, y, "share of time busy (light) and of slots in use (dark)", size=12)]
    for index, use in enumerate(report.use):
        top = y + 10 + 22 * index
        name = f"{use.stage}: {use.replicas} replicas"
        parts.append(_text(LEFT, top + 12, name, size=11))
        for share, colour, inset in (
            (use.busy_share, "#a6cee3", 0),
            (use.slot_share, "#0b6e99", 4),
        ):
            parts.append(
                f'<rect x="240" y="{top + inset / 2 + 1}" width="{400 * min(1.0, share):.1f}" '
                f'height="{13 - inset}" fill="{colour}"/>'
            )
        figures = f"{use.busy_share:.0%} / {use.slot_share:.0%}"
        parts.append(_text(650, top + 12, figures, size=11))
    return parts


def _values(sample: Sample, what: str) -> Floats:
    if what == "e2e":
        return sample.e2e_s if sample.e2e_s is not None else np.array([])
    return sample.ttft_s if what == "ttft" else sample.tpot_s


def _height(share: float) -> float:
    return TOP + 26 + PLOT_HEIGHT * (1.0 - share)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1.0 else f"{value:.3g} s"


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">'
        f"{escape(text)}</text>"
    )
