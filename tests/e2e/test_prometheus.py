"""A real Prometheus scrapes stub endpoints that speak as gateways, vLLM and SGLang do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import prometheus
from e2e.cluster.nodes import demo_nodes
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation
from e2e.prometheus import Exporter

from motley_operator.api.measuring import PrometheusSpec
from motley_operator.demand.learning import (
    FEWEST_REQUESTS,
    Judged,
    Source,
    Verdict,
    judge_speed,
)
from motley_operator.demand.sources import Ready, Reason, judge
from motley_operator.domain.measurement import EngineSteps, Measurement, Reading
from motley_operator.facts.prometheus import read_prometheus
from motley_planner.catalog import load_catalog
from motley_planner.costs.learned import MeasuredLoad, predicted_tpot
from motley_planner.costs.replica import Replica, replica_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        prometheus.find("prometheus") is None,
        reason="no prometheus on PATH or in the cache: install it, or on Debian run "
        "`python -m e2e.prometheus`",
    ),
]
NAMESPACE, POOL = "measured", "chat"
WINDOW_S = 30
STEP_S = WINDOW_S / 10
COLUMN, SLOTS, TPOT_S = "c0ffee00", 96, 0.015


class Load:
    """Requests that arrive at a steady rate, as counters of a gateway and an engine tell them."""

    def __init__(self, name: str, engine: str = "vllm") -> None:
        self.name, self.engine = name, engine
        self.gateway, self.replica = Exporter(), Exporter()
        self.rate, self.count = 0.0, 0.0
        self._ended = threading.Event()
        self._tick(0.0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def targets(self) -> dict[str, dict[str, str]]:
        labels = {
            "namespace": NAMESPACE,
            "motley_dev_kind": "ServingPool",
            "motley_dev_resource": self.name,
        }
        component = "app_kubernetes_io_component"
        return {
            self.gateway.address: {**labels, component: "gateway"},
            self.replica.address: {**labels, component: "serve", "motley_dev_column": COLUMN},
        }

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(5.0)
        self.gateway.stop()
        self.replica.stop()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.2):
            now = time.monotonic()
            self._tick(now - last)
            last = now

    def _tick(self, seconds: float) -> None:
        self.count += self.rate * seconds
        n = self.count
        self.gateway.text = "motley_gateway_in_flight 1\n" + (
            f'motley_gateway_requests_total{{stage="main",status="200",class="all"}} {n}\n'
            if n
            else ""
        )
        running = TPOT_S * 200.0 * self.rate  # Little's law
        self.replica.text = VLLM.format(
            n=n, a=0.4 * n, p=900.0 * n, o=200.0 * n, t=TPOT_S * n, f=0.3 * n, r=running
        )
        if self.engine == "sglang":
            for old, new in SGLANG.items():
                self.replica.text = self.replica.text.replace(old, new)


VLLM = """\
vllm:num_requests_running{{model_name="m"}} {r}
vllm:num_requests_waiting{{model_name="m"}} 2
vllm:kv_cache_usage_perc{{model_name="m"}} 0.25
vllm:e2e_request_latency_seconds_count {n}
vllm:request_prompt_tokens_bucket{{le="500"}} {a}
vllm:request_prompt_tokens_bucket{{le="+Inf"}} {n}
vllm:request_prompt_tokens_sum {p}
vllm:request_generation_tokens_bucket{{le="500"}} {n}
vllm:request_generation_tokens_bucket{{le="+Inf"}} {n}
vllm:request_generation_tokens_sum {o}
vllm:time_to_first_token_seconds_bucket{{le="0.5"}} {n}
vllm:time_to_first_token_seconds_bucket{{le="+Inf"}} {n}
vllm:request_time_per_output_token_seconds_bucket{{le="0.02"}} {n}
vllm:request_time_per_output_token_seconds_bucket{{le="+Inf"}} {n}
vllm:request_time_per_output_token_seconds_sum {t}
vllm:request_time_per_output_token_seconds_count {n}
vllm:time_to_first_token_seconds_sum {f}
vllm:time_to_first_token_seconds_count {n}
"""
SGLANG = {
    "num_requests_running": "num_running_reqs",
    "num_requests_waiting": "num_queue_reqs",
    "kv_cache_usage_perc": "token_usage",
    "request_prompt_tokens": "prompt_tokens_histogram",
    "request_generation_tokens": "generation_tokens_histogram",
    "request_time_per_output_token": "inter_token_latency",
    "vllm:": "sglang:",
}


def until(met: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Load, Load]]:
    """A Prometheus that scrapes one vLLM and one SGLang pool with their gateways, at 20 a second."""
    made = Load(POOL), Load("other", "sglang")
    targets = {address: labels for load in made for address, labels in load.targets().items()}
    for load in made:
        load.rate = 20.0
    try:
        with prometheus.running(
            tmp_path_factory.mktemp("prometheus"), prometheus.static(targets)
        ) as url:
            yield url, *made
    finally:
        for load in made:
            load.stop()


def whole(url: str) -> Reading:
    source = PrometheusSpec.model_validate({"url": url, "window": f"{WINDOW_S}s"})
    reading = read_prometheus(source, load_catalog(), threading.Event())
    assert reading.error == ""
    assert reading.step_s == STEP_S
    return reading


def read(url: str, name: str) -> Measurement:
    return whole(url).measurements.get(f"ServingPool/{NAMESPACE}/{name}", Measurement())


def test_both_engines_names_are_read(loads: tuple[str, Load, Load]) -> None:
    url, vllm, sglang = loads

    def steps_are_there() -> bool:
        found = read(url, sglang.name)
        return len([n for n in found.gateways.alive if n]) >= 3

    until(steps_are_there, 30.0, "three steps of the window are there")
    for load in (vllm, sglang):
        found = read(url, load.name)
        assert (found.gateways.seen, found.gateways.up, found.engines.up) == (1, 1, 1)
        for steps in (found.arrived["all"], found.finished):
            assert steps[-2] == pytest.approx(20.0 * STEP_S, rel=0.2)
        assert found.prompt.total / found.prompt.counts[-1] == pytest.approx(900.0, rel=0.05)
        assert found.output.total / found.output.counts[-1] == pytest.approx(200.0, rel=0.05)
        assert found.prompt.counts[0] / found.prompt.counts[-1] == pytest.approx(0.4, rel=0.05)
        assert (found.waiting, found.kv_usage) == (2.0, 0.25)
        assert found.running == pytest.approx(60.0)
        assert found.ttft_p95_s == pytest.approx(0.475)
        assert found.tpot_p95_s == pytest.approx(0.019)
        rate = judge(found, Ready(1, 1), (STEP_S, 60.0), (True, "")).recent
        assert rate is not None
        assert rate.low < 20.0 < rate.high


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_speed_of_an_engine_is_told_from_what_it_counts(
    loads: tuple[str, Load, Load], engine: str
) -> None:
    """The stub takes 15 ms a token; what it is called over the model is worked out here anew."""
    url, catalog = loads[0], load_catalog()
    load = next(one for one in loads[1:] if one.engine == engine)
    name, gpu, efficiency = "Qwen/Qwen3-8B", catalog.gpus["H100-SXM5-80GB"], catalog.efficiency
    assert efficiency is not None
    made = replica_of(catalog.models[name], "bf16", gpu, 1, catalog.engines[engine], efficiency)
    assert isinstance(made, Replica)

    def judged() -> Judged:
        found = whole(url).columns.get(f"ServingPool/{NAMESPACE}/{load.name}", {})
        source = Source(found.get(COLUMN, EngineSteps()), 1, SLOTS, output_variation=0.0)
        return judge_speed(made, [source], STEP_S)

    until(lambda: judged().verdict is Verdict.LEARNED, 40.0, "eight steps of the window are there")
    estimate = judged().estimate
    assert estimate is not None
    modeled = predicted_tpot(made, MeasuredLoad(60.0, 900.0, 200.0, SLOTS, 0.0)).seconds
    # The stub counts in real time: on a busy machine fewer requests, of which the model thinks less.
    assert estimate.value == pytest.approx(TPOT_S / modeled, rel=0.15)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.samples > 8 * FEWEST_REQUESTS


def test_what_answers_and_is_no_prometheus_is_an_error_and_no_crash(
    loads: tuple[str, Load, Load],
) -> None:
    for address in (loads[1].gateway.address, "127.0.0.1:1"):
        source = PrometheusSpec.model_validate({"url": f"http://{address}"})
        assert read_prometheus(source, load_catalog(), threading.Event()).error


@pytest.fixture
def motley(
    cluster: Cluster,
    loads: tuple[str, Load, Load],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Installation]:
    """The operator, planning one pool of 8B models whose demand is measured."""
    hands = Scenario(cluster.kubeconfig, cluster.local)
    monkeypatch.setenv("MOTLEY_RESYNC", "1")
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    prometheus_spec = {"url": loads[0], "window": f"{WINDOW_S}s", "interval": "1s"}
    try:
        hands.add_nodes(demo_nodes())
        installed.start()
        installed.apply(manifests(prometheus_spec))
        installed.settle()
        yield installed
    finally:
        installed.stop()
        hands.close()


def manifests(source: dict[str, str]) -> list[dict[str, Any]]:
    version = "motley.dev/v1alpha1"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": version,
            "kind": "Fleet",
            "metadata": {"name": "default"},
            "spec": {"prometheus": source},
        },
        {
            "apiVersion": version,
            "kind": "ServingPool",
            "metadata": {"name": POOL, "namespace": NAMESPACE},
            "spec": {
                "model": {"id": "Qwen/Qwen3-8B"},
                "workload": {
                    "requestsPerSecond": 20,
                    "demand": "Measured",
                    "classes": [{"name": "all", "promptTokens": 900, "outputTokens": 200}],
                },
                "gateway": {"replicas": 1},
                "replan": {"cooldown": "1s"},
            },
        },
    ]


@pytest.mark.slow  # half a minute, most of it counted requests
def test_measured_demand_changes_the_plan_and_a_stopped_endpoint_changes_no_pod(
    motley: Installation, loads: tuple[str, Load, Load]
) -> None:
    _, load, _ = loads

    def status() -> dict[str, Any]:
        pool = motley.api.get("ServingPool", NAMESPACE, POOL) or {}
        found: dict[str, Any] = pool.get("status", {})
        return found

    def measured() -> tuple[str, str]:
        found = [c for c in status().get("conditions", ()) if c["type"] == "DemandMeasured"]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    motley.wait(lambda: measured() == ("True", Reason.MEASURED), 60.0, "demand is measured")
    before = motley.settle()
    load.rate = 90.0
    motley.wait(lambda: _rate(status()) > 85.0, 40.0, "90 requests/s are planned for")
    grown = motley.settle()
    assert len(grown.live()) > len(before.live())
    assert before.live().keys() <= grown.live().keys()

    load.gateway.stop()
    motley.wait(lambda: measured() == ("False", Reason.TARGETS_DOWN), 20.0, "the loss is said")
    time.sleep(5.0)
    after = motley.settle()
    assert after.live().keys() == grown.live().keys()
    assert _rate(status()) > 85.0


def _rate(status: dict[str, Any]) -> float:
    return float((status.get("demand") or {}).get("requestsPerSecond", 0.0))
