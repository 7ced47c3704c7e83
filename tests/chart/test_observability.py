"""Alert rules, dashboard and the page of metrics name series that exist, and rules do what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import prometheus
from prometheus_client import CollectorRegistry

from motley_operator.demand import Settled
from motley_operator.demand.sources import Reason
from motley_operator.metrics import Metrics
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


@needs_promtool
def test_the_rules_do_what_their_tests_say() -> None:
    for words in (
        ("check", "rules", str(FILES / "alerts.yaml")),
        ("test", "rules", str(Path(__file__).parent / "alerts_test.yaml")),
    ):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": query} for i, (_, query) in enumerate(queries())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
