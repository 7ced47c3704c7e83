"""How `motley simulate` shows a result in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motley_operator.cli.output import Row, columns, money, number, percent
from motley_planner.simulator import Report


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `--tune-alpha` found: P95 seconds by alpha, the best, and the default rule's."""

    resource: str
    alpha: float
    p95_s: float
    p95_s_by_alpha: Mapping[float, float]
    earliest_finish_p95_s: float


def render_tuned(found: Tuned) -> str:
    """The alphas tried, and the field to set where one beats the default rule."""
    rows: list[Row] = [("RULE", "E2E p95")]
    rows += [(f"Hexgen, alpha {a:.0%}", _time(s)) for a, s in found.p95_s_by_alpha.items()]
    rows.append(("EarliestFinish (default)", _time(found.earliest_finish_p95_s)))
    if found.p95_s < found.earliest_finish_p95_s:
        field = f"{{rule: Hexgen, alpha: {found.alpha:.0%}}}"
        verdict = f"alpha {found.alpha:g}; set spec.gateway.dispatch: {field}"
    else:
        verdict = f"alpha {found.alpha:g} is the best, and no better than the default rule: keep it"
    return f"{found.resource}: {verdict}\n\n{columns(rows, indent=2, right=frozenset({1}))}"


def render(report: Report) -> str:
    """The report as tables."""
    verdict = "every target met" if report.is_kept else "NOT every target met"
    rate, seconds = number(report.requests_per_second), number(report.seconds)
    answered = f"{report.answered:,} of {report.requests:,} requests answered"
    lines = [
        f"{report.resource}: {verdict}",
        f"{answered}, {rate}/s for {seconds} s, {money(report.usd_per_hour)}",
    ]
    if report.refused:
        lines.append(f"{report.refused:,} found no replica")
    if report.in_deadline is not None:
        lines.append(
            f"{report.not_admitted:,} not let in; {percent(report.in_deadline)} of all answered "
            "by their deadline"
        )
    if report.mean_quality is not None:
        lines.append(f"mean quality {percent(report.mean_quality)}")
    tables = [_targets(report)] if report.attainment else []
    return "\n\n".join(["\n".join(lines), *tables, _latencies(report), _use(report)])


def _targets(report: Report) -> str:
    rows: list[Row] = [("", "STAGE", "CLASS", "TARGET", "WITHIN")]
    for each in report.attainment:
        mark = "ok" if each.is_kept else "MISS"
        target = f"{each.what} {each.percentile} <= {_time(each.limit_s)}"
        rows.append((mark, each.stage, each.name, target, percent(each.share)))
    return columns(rows, indent=2, right=frozenset({4}))


def _latencies(report: Report) -> str:
    head = ["STAGE", "CLASS", "REQUESTS", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99"]
    rows: list[Row] = [[*head, "E2E p50", "p95"]]
    for each in report.classes:
        cells = [each.stage, each.name, f"{each.requests:,}"]
        for figures in (each.ttft, each.tpot):
            cells += [_time(v) for v in (figures.p50_s, figures.p95_s, figures.p99_s)]
        whole = each.e2e
        rows.append([*cells, *([_time(whole.p50_s), _time(whole.p95_s)] if whole else "--")])
    return columns(rows, indent=2, right=frozenset(range(2, len(rows[0]))))


def _use(report: Report) -> str:
    rows: list[Row] = [("STAGE", "REPLICAS", "BUSY", "SLOTS", "PREEMPTED")]
    for use in report.use:
        shares = percent(use.busy_share), percent(use.slot_share)
        rows.append((use.stage, str(use.replicas), *shares, str(use.preemptions)))
    return columns(rows, indent=2, right=frozenset({1, 2, 3, 4}))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return "never"
    return f"{number(seconds * 1000)} ms" if seconds < 1.0 else f"{number(seconds)} s"
