"""Alert rules, dashboard and the page of metrics name series that exist, and rules do what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import prometheus
from prometheus_client import CollectorRegistry

from motley_operator.demand import Settled
from motley_operator.demand.sources import Reason
from motley_operator.metrics import Metrics
from motley_operator.pacing import LONGEST_REST_S
from motley_planner.catalog import load_catalog
from motley_runtime.gateway.metrics import Metrics as GatewayMetrics

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "charts" / "motley" / "files"
PAGE = ROOT / "docs" / "reference" / "metrics.md"
SERIES = re.compile(r"\b(?:motley|vllm|sglang)(?:_|:)[a-z0-9_]+\b")
PROMTOOL = prometheus.find("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None,
    reason="no promtool on PATH or in the cache: install it, or on Debian run "
    "`python -m e2e.prometheus`",
)
LABELS = {"motley_dev_kind", "motley_dev_resource", "motley_dev_stage"}
LAST_CYCLE = "motley_last_cycle_timestamp_seconds"
SCRAPE_S = 60  # Prometheus' own default, and the longest that is common


def exposed(registry: CollectorRegistry) -> dict[str, tuple[str, str]]:
    """Every series' family as a scrape names it: (type, help); `_created` is left out."""
    found = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, family.documentation)
    return found


def known() -> set[str]:
    """Names that a query may hold: the operator's, the gateway's and the engines' series."""
    families = exposed(Metrics().registry) | exposed(GatewayMetrics().registry)
    names = set(families) | LABELS
    for name, (kind, _) in families.items():
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    for engine in load_catalog().engines.values():
        names |= set(engine.metrics.values())
    return names


def alerts() -> list[dict[str, Any]]:
    """The rules."""
    document = yaml.safe_load((FILES / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """(where, query) of rules and panels."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_series_that_a_query_names_exists(where: str, query: str) -> None:
    named = set(SERIES.findall(query))
    assert named
    assert named - known() == set()


def test_the_page_of_metrics_has_every_series_of_the_operator_and_no_other() -> None:
    rows = re.findall(
        r"^\| `(motley_\w+)` \| (\w+) \|.*\| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    listed = {name: (kind, text.rstrip(".")) for name, kind, text in rows}
    assert listed == exposed(Metrics().registry)
    assert len(rows) == len(listed)


def test_the_page_of_metrics_gives_each_series_its_labels() -> None:
    rows = re.findall(r"^\| `(motley_\w+)` \| \w+ \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    listed = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    metrics = Metrics()
    collectors = metrics.registry._collector_to_names  # the only place that still has the labels
    for collector, names in collectors.items():
        labels = tuple(getattr(collector, "_labelnames", ()))
        (name,) = [n for n in names if n in listed]
        assert listed[name] == labels, name


@pytest.mark.parametrize(
    ("where", "query"), [each for each in queries() if f"- {LAST_CYCLE}" in each[1]]
)
def test_gauges_are_looked_at_for_longer_than_a_fleet_rests(where: str, query: str) -> None:
    windows = [int(seconds) for seconds in re.findall(rf"{LAST_CYCLE} < (\d+)", query)]
    assert len(windows) == query.count(LAST_CYCLE)
    assert min(windows) >= LONGEST_REST_S + 2 * SCRAPE_S
    assert all(f"({seconds} s)" in PAGE.read_text() for seconds in windows)


def test_nobody_at_rest_is_taken_for_one_that_plans_no_more() -> None:
    (rule,) = [rule for rule in alerts() if rule["alert"] == "MotleyNotPlanning"]
    (age,) = re.findall(rf"{LAST_CYCLE}\) > (\d+)", rule["expr"])
    (minutes,) = re.findall(r"^(\d+)m$", rule["for"])
    assert int(age) + 60 * int(minutes) >= LONGEST_REST_S + 2 * SCRAPE_S


def test_the_page_has_every_reason_of_the_condition_and_no_other() -> None:
    rows = re.findall(r"^\| (True|False|Unknown) \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    told = {reason: Settled(None, reason, "").status for reason in Reason}
    assert {Reason(reason): status for status, reason in rows} == told


def test_every_alert_says_what_it_is_and_is_on_the_page() -> None:
    page = PAGE.read_text()
    for rule in alerts():
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert f"`{rule['alert']}`" in page


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    document = yaml.safe_load((Path(__file__).parent / "alerts_test.yaml").read_text())
    cases = [case for test in document["tests"] for case in test["alert_rule_test"]]
    for rule in alerts():
        fires = {bool(c["exp_alerts"]) for c in cases if c["alertname"] == rule["alert"]}
        assert fires == {True, False}, rule["alert"]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({p["id"] for p in panels}) == len(panels)


def promtool(*words: str) -> None:
    """Runs it; it must succeed."""
    done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_do_what_their_tests_say() -> None:
    for words in (
        ("check", "rules", str(FILES / "alerts.yaml")),
        ("test", "rules", str(Path(__file__).parent / "alerts_test.yaml")),
    ):
        promtool(*words)


def scraped(value_at: Callable[[int], int], minutes: int) -> str:
    """Values second by second of what is scraped a second after each minute, and missing in between."""
    return "_ " + " ".join(f"{value_at(60 * n + 1)} _x59" for n in range(minutes))


@needs_promtool
def test_alerts_of_a_fleet_at_its_longest_rest_fire_without_a_break(tmp_path: Path) -> None:
    """Rules are evaluated at full minutes: what they see is 59 s old, and the cycle before up to 360 s."""
    every_s = int(LONGEST_REST_S) + 1
    whose = 'kind="ServingPool",namespace="t",name="n"'
    series: dict[str, Callable[[int], int]] = {
        LAST_CYCLE: lambda at: at // every_s * every_s,
        'motley_shortfalls{reason="BudgetTooLow"}': lambda at: 1,
        'motley_moved_pods_total{action="CreatePod"}': lambda at: at // 60,
        f'motley_desired_replicas{{{whose},stage="main"}}': lambda at: 4,
        f'motley_demand_measured{{{whose},reason="TargetsDown"}}': lambda at: 0,
    }
    # An end of a range is in it or not, by Prometheus' version.
    firing = 'sum(count_over_time(ALERTS{alertstate="firing"}[30m])) by (alertname) >= bool 30'
    fire = ("MotleyShortfall", "MotleyChurn", "MotleyDemandNotMeasured")
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in fire]
    case = {
        "interval": "1s",
        "input_series": [
            {"series": name, "values": scraped(value_at, 60)} for name, value_at in series.items()
        ],
        "promql_expr_test": [{"expr": firing, "eval_time": "55m", "exp_samples": expected}],
    }
    path = tmp_path / "rest.yaml"
    rules = {"rule_files": [str(FILES / "alerts.yaml")], "evaluation_interval": "1m"}
    path.write_text(yaml.safe_dump({**rules, "tests": [case]}))
    promtool("test", "rules", str(path))


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": query} for i, (_, query) in enumerate(queries())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))
