"""What the operator says about itself to Prometheus; every series starts with `motley_`."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from motley_operator.demand import Settled
from motley_operator.demand.corrections import Learning, key_of
from motley_operator.domain.measurement import Reading
from motley_operator.domain.replans import Replan
from motley_operator.domain.translation import Translation
from motley_planner.domain.measurements import LearnedKey
from motley_planner.domain.plan import INTERNAL_ERROR, Plan

_SECONDS = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_OWNER = ("kind", "namespace", "name")
_CONFIGURATION = ("model", "gpu", "tensor_parallel", "precision", "engine")
# Figures of a reading under one name for every engine: series -> (field, text).
_SHOWN = {
    "ttft_p95_seconds": ("ttft_p95_s", "95th percentile of time to first token over the window"),
    "tpot_p95_seconds": ("tpot_p95_s", "95th percentile of time per output token over the window"),
    "running_requests": ("running", "Requests in the engines' batches"),
    "waiting_requests": ("waiting", "Requests in the engines' queues"),
    "kv_usage_ratio": ("kv_usage", "Share of the KV cache in use, of the fullest engine"),
}


class Metrics:
    """The operator's series, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._shown: Plan | None = None
        self.cycles = Counter("motley_cycles", "Cycles by result", ["result"], registry=registry)
        self.wakes = Counter("motley_wakes", "Wake-ups by cause", ["cause"], registry=registry)
        self.step_seconds = Histogram(
            "motley_cycle_step_seconds",
            "Seconds a step of a cycle took",
            ["step"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cycle_seconds = Histogram(
            "motley_cycle_seconds", "Seconds a cycle took", buckets=_SECONDS, registry=registry
        )
        self.solve_seconds = Histogram(
            "motley_solve_seconds",
            "Seconds the planner's solver took",
            buckets=_SECONDS,
            registry=registry,
        )
        self.delay_seconds = Histogram(
            "motley_wake_to_done_seconds",
            "Seconds from the first wake-up to the end of the cycle that answers it",
            buckets=_SECONDS,
            registry=registry,
        )
        self.gap = Gauge("motley_plan_gap", "Relative gap of the plan", registry=registry)
        self.search_due = Gauge(
            "motley_plan_search_due_timestamp_seconds",
            "Unix time from which a plan that was cut short is sought again; 0 where none is",
            registry=registry,
        )
        self.price = Gauge("motley_plan_price_usd_per_hour", "Price of the plan", registry=registry)
        self.gpus = Gauge("motley_plan_gpus", "GPUs", ["state"], registry=registry)
        self.resource_price = Gauge(
            "motley_resource_price_usd_per_hour",
            "Price of the replicas that the plan has for a resource",
            _OWNER,
            registry=registry,
        )
        self.replicas = Gauge(
            "motley_desired_replicas",
            "Replicas the plan wants",
            [*_OWNER, "stage"],
            registry=registry,
        )
        self.kept = Gauge("motley_plan_kept_replicas", "Replicas that go on", registry=registry)
        self.moved = Counter(
            "motley_moved_pods", "Pods created and deleted", ["action"], registry=registry
        )
        self.shortfalls = Gauge(
            "motley_shortfalls",
            "Why resources are not planned, or not fully: refusals by reason, those of specs too",
            ["reason"],
            registry=registry,
        )
        self.fleet_refusals = Gauge(
            "motley_fleet_refusals",
            "What is wrong with the Fleet, by reason: entries that are left out, or all of it",
            ["reason"],
            registry=registry,
        )
        self.last_cycle = Gauge(
            "motley_last_cycle_timestamp_seconds",
            "Unix time at which the last cycle ended that decided something",
            registry=registry,
        )
        self.replans = Counter(
            "motley_replans",
            "Changes of a resource's plan: T0 routing, T1 pods added or roles changed, T2 pods that ran stopped",
            ["tier", "reason"],
            registry=registry,
        )
        self.replan_cost = Counter(
            "motley_replan_cost_usd",
            "US dollars of GPU time that changes of plan cost once, predicted: weights that load, work that stops lose",
            ["tier"],
            registry=registry,
        )
        self._demand(registry)
        self.calls = Counter(
            "motley_api_calls",
            "Calls to the API server",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.forbidden = Counter(
            "motley_api_forbidden",
            "Calls that the API server refused for want of a right, not those that admission refused",
            ["verb", "resource"],
            registry=registry,
        )
        self.takes = Counter(
            "motley_field_takes",
            "Times that somebody else wrote a field of an object of ours, by its kind",
            ["kind"],
            registry=registry,
        )
        self.errors = Counter(
            "motley_errors", "What went wrong, by where", ["where"], registry=registry
        )

    def _demand(self, registry: CollectorRegistry) -> None:
        self.readings = Counter(
            "motley_prometheus_readings", "Looks at Prometheus", ["result"], registry=registry
        )
        self.demand = Gauge(
            "motley_demand_requests_per_second",
            "Requests a second that a service is planned for",
            _OWNER,
            registry=registry,
        )
        self.demand_measured = Gauge(
            "motley_demand_measured",
            "1 where the plan follows measured demand, 0 where it cannot, with the reason",
            [*_OWNER, "reason"],
            registry=registry,
        )
        self.measured = {
            series: Gauge(f"motley_measured_{series}", text, _OWNER, registry=registry)
            for series, (_, text) in _SHOWN.items()
        }

        self._learning(registry)

    def _learning(self, registry: CollectorRegistry) -> None:
        self.correction = Gauge(
            "motley_learned_correction",
            "Step time over what is modeled that was learned of a configuration",
            _CONFIGURATION,
            registry=registry,
        )
        self.measured_over_modeled = Gauge(
            "motley_measured_over_modeled",
            "Measured over modeled time in the last window, at the load of that window",
            [*_CONFIGURATION, "what"],
            registry=registry,
        )
        self.learning = Gauge(
            "motley_learning_configurations",
            "Configurations that run, by what became of their measurement",
            ["result"],
            registry=registry,
        )

    def serve(self, port: int) -> None:
        """Answer /metrics on a port, in a thread of its own; 0 serves nothing."""
        if port:
            start_http_server(port, registry=self.registry)

    def called(self, verb: str, plural: str, status: int, lacks_right: bool) -> None:
        """Count one API call, and whether it was refused for want of a right."""
        self.calls.labels(verb, plural, str(status)).inc()
        if lacks_right:
            self.forbidden.labels(verb, plural).inc()

    def read_prometheus(self, reading: Reading | None) -> None:
        """Count a reading and show its figures; what it lacks is shown no longer.

        None where nothing is read any more: then nothing is shown.
        """
        if reading is not None:
            self.readings.labels("failed" if reading.error else "done").inc()
        measured = reading.measurements if reading is not None else {}
        for series, gauge in self.measured.items():
            gauge.clear()
            for key, measurement in measured.items():
                value = getattr(measurement, _SHOWN[series][0])
                if value is not None:
                    gauge.labels(*key.split("/", 2)).set(value)

    def translated(self, translation: Translation) -> None:
        """Show the demand that is planned for; count resources on which reading failed."""
        for refusals in translation.rejected.values():
            if any(refusal.reason == INTERNAL_ERROR for refusal in refusals):
                self.errors.labels("resource").inc()
        self.demand.clear()
        for service in translation.snapshot.services:
            self.demand.labels(*service.key.split("/", 2)).set(service.requests_per_second)
        self.demand_measured.clear()
        for key, found in translation.demands.items():
            if isinstance(found, Settled):
                gauge = self.demand_measured.labels(*key.split("/", 2), found.reason)
                gauge.set(float(found.status == "True"))

        if isinstance(translation.learning, Learning):
            self._learned(translation.learning)

    def fell_short(self, plan: Plan, translation: Translation) -> None:
        """Count what the plan lacks, what no plan was made for, and what is wrong with the Fleet.

        A plan that is held may lack more.
        """
        pieces = [piece.refusals for piece in plan.slices]
        found = chain.from_iterable([*pieces, *translation.rejected.values()])
        self.shortfalls.clear()
        for reason, count in Counts(refusal.reason for refusal in found).items():
            self.shortfalls.labels(reason).set(count)
        self.fleet_refusals.clear()
        for reason, count in Counts(refusal.reason for refusal in translation.unmet).items():
            self.fleet_refusals.labels(reason).set(count)

    def _learned(self, learning: Learning) -> None:
        """Show corrections, and what became of the measurement of what runs."""
        for gauge in (self.correction, self.measured_over_modeled, self.learning):
            gauge.clear()
        for one in learning.corrections:
            self.correction.labels(*_labels(key_of(one))).set(one.value)
        results = Counts(judged.verdict.value for judged in learning.judged.values())
        for result, count in results.items():
            self.learning.labels(result).set(count)
        for key, judged in learning.judged.items():
            seen = judged.estimate
            ratios = {"tpot": seen.value, "ttft": seen.ttft} if seen is not None else {}
            for what, ratio in ratios.items():
                if ratio is not None:
                    self.measured_over_modeled.labels(*_labels(key), what).set(ratio)

    def searching(self, again_at: float | None) -> None:
        """Show from when a longer search may begin; None: none is due."""
        self.search_due.set(again_at or 0.0)

    def stood_down(self) -> None:
        """Show no plan and no demand any more: another operator leads, and shows them.

        What is counted stays, and what is read of Prometheus, for a standby does that too. One that leads
        again shows all anew.
        """
        self._shown = None
        for gauge in (self.search_due, self.gap, self.price, self.kept, self.last_cycle):
            gauge.set(0.0)
        for gauge in (self.gpus, self.resource_price, self.replicas, self.shortfalls):
            gauge.clear()
        for gauge in (self.fleet_refusals, self.demand, self.demand_measured):
            gauge.clear()
        for gauge in (self.correction, self.measured_over_modeled, self.learning):
            gauge.clear()

    def replanned(self, replans: Iterable[Replan]) -> None:
        """Count changes of plan."""
        for replan in replans:
            self.replans.labels(replan.tier.value, replan.reason).inc()
            self.replan_cost.labels(replan.tier.value).inc(replan.cost_usd)

    def planned(
        self, plan: Plan, stages: Mapping[str, Iterable[str]] = MappingProxyType({})
    ) -> None:
        """Show a plan's figures, once a plan: most cycles hold the one that they have.

        `stages` are those that each resource has, by key: one without replicas wants 0, and says so.
        """
        self.last_cycle.set_to_current_time()
        if plan is self._shown:
            return
        self._shown = plan
        self.solve_seconds.observe(plan.solve_seconds)
        self.gap.set(plan.gap if plan.gap is not None else float("nan"))
        self.price.set(plan.price_usd_per_hour)
        self.gpus.labels("total").set(plan.gpus)
        self.gpus.labels("used").set(plan.gpus_used)
        self.kept.set(plan.kept)
        self.replicas.clear()
        self.resource_price.clear()
        for piece in plan.slices:
            kind, namespace, name = piece.key.split("/", 2)
            self.resource_price.labels(kind, namespace, name).set(piece.price_usd_per_hour)
            for stage in stages.get(piece.key, ()):
                self.replicas.labels(kind, namespace, name, stage).set(0)
            for replica in piece.replicas:
                self.replicas.labels(kind, namespace, name, replica.stage).inc()


def _labels(key: LearnedKey) -> tuple[str, ...]:
    """Values of the labels of one configuration."""
    return key.model, key.gpu, str(key.tensor_parallel), key.precision, key.engine
