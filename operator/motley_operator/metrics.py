"""What the operator says about itself to Prometheus; every series starts with `motley_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from motley_planner.domain.plan import Plan

_SECONDS = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The operator's series, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
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
        self.price = Gauge("motley_plan_price_usd_per_hour", "Price of the plan", registry=registry)
        self.gpus = Gauge("motley_plan_gpus", "GPUs", ["state"], registry=registry)
        self.replicas = Gauge(
            "motley_desired_replicas",
            "Replicas the plan wants",
            ["kind", "namespace", "name", "stage"],
            registry=registry,
        )
        self.kept = Gauge("motley_plan_kept_replicas", "Replicas that go on", registry=registry)
        self.moved = Counter(
            "motley_moved_pods", "Pods created and deleted", ["action"], registry=registry
        )
        self.shortfalls = Gauge(
            "motley_shortfalls", "Refusals in the plan by reason", ["reason"], registry=registry
        )
        self.calls = Counter(
            "motley_api_calls",
            "Calls to the API server",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.errors = Counter(
            "motley_errors", "What went wrong, by where", ["where"], registry=registry
        )

    def serve(self, port: int) -> None:
        """Answer /metrics on a port, in a thread of its own; 0 serves nothing."""
        if port:
            start_http_server(port, registry=self.registry)

    def called(self, verb: str, plural: str, status: int) -> None:
        """Count one API call."""
        self.calls.labels(verb, plural, str(status)).inc()

    def planned(self, plan: Plan) -> None:
        """Show a plan's figures."""
        self.solve_seconds.observe(plan.solve_seconds)
        self.gap.set(plan.gap if plan.gap is not None else float("nan"))
        self.price.set(plan.price_usd_per_hour)
        self.gpus.labels("total").set(plan.gpus)
        self.gpus.labels("used").set(plan.gpus_used)
        self.kept.set(plan.kept)
        self.replicas.clear()
        self.shortfalls.clear()
        for piece in plan.slices:
            kind, namespace, name = piece.key.split("/", 2)
            for replica in piece.replicas:
                self.replicas.labels(kind, namespace, name, replica.stage).inc()
            for refusal in piece.refusals:
                self.shortfalls.labels(refusal.reason).inc()
