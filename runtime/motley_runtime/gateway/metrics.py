"""What the gateway counts, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from motley_runtime.gateway.quality_metrics import QualityMetrics

# From one scheduler tick of an engine to the longest answers it is allowed to give.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The gateway's counters; `render` is the Prometheus text form."""

    content_type = b"text/plain; version=1.0.0; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.quality = QualityMetrics(self.registry)
        self.requests = self._counter(
            "requests",
            "Requests by answering stage, HTTP status and class.",
            "stage",
            "status",
            "class",
        )
        self.escalations = self._counter(
            "escalations",
            "Answers passed to the next stage: low score or failure.",
            "stage",
            "reason",
        )
        self.discarded_tokens = self._counter(
            "discarded_tokens", "Completion tokens of answers that were escalated.", "stage"
        )
        self.retries = self._counter("retries", "Requests tried on another replica.", "stage")
        self.upstream_failures = self._counter(
            "upstream_failures", "Failed calls to replicas by kind.", "stage", "kind"
        )
        self.legs = self._counter(
            "legs",
            "Calls where phases may be apart: prefill, decode, alone (a decode replica's own "
            "prefill) or whole, and how they ended.",
            "stage",
            "leg",
            "outcome",
        )
        self.refused = self._counter(
            "refused_requests",
            "Requests sent away: rate, concurrency, shed, timeout, credit, hold, hold_timeout, workflow.",
            "reason",
        )
        self.early_returns = self._counter(
            "early_returns",
            "Answers below the threshold returned because the deadline left no time.",
            "stage",
        )
        self.branches = self._counter(
            "branches",
            "Branches of requests: completed, pruned, stopped (others were enough), wrong, failed.",
            "stage",
            "outcome",
        )
        self.branch_tokens = self._counter(
            "branch_tokens", "Completion tokens seen of branches, as above.", "stage", "outcome"
        )
        self.unscored_branches = self._counter(
            "unscored_branches",
            "Questions that no reward pool answered, or that none may be asked.",
        )
        self.waiting = Gauge(
            "motley_gateway_waiting", "Requests waiting for their turn.", registry=self.registry
        )
        self.held = Gauge(
            "motley_gateway_held",
            "Requests waiting for a replica while none answers.",
            registry=self.registry,
        )
        self.waiting_for_credit = Gauge(
            "motley_gateway_waiting_for_credit",
            "Requests waiting for room on their replica.",
            registry=self.registry,
        )
        self.steps = self._counter(
            "workflow_steps", "Calls of workflows: in_time, late or failed.", "outcome"
        )
        self.late_steps = self._counter(
            "workflow_late_steps", "Late calls of workflows: queue, escalation, execution.", "cause"
        )
        self.workflows = self._counter(
            "workflow_admissions",
            "Workflows that began under admission control: admitted, refused or unjudged.",
            "decision",
        )
        self.workflows_at_work = Gauge(
            "motley_gateway_workflows_at_work",
            "Workflows with a call at work.",
            registry=self.registry,
        )
        self.workflow_s = Histogram(
            "motley_gateway_workflow_seconds",
            "Seconds from a workflow's first call to its last answer.",
            ("outcome",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.routing_refused = self._counter("routing_refused", "Routing documents refused.")
        self.policies = self._counter("policy_requests", "Requests by cascade policy.", "policy")
        self.in_flight = Gauge(
            "motley_gateway_in_flight", "Requests being answered.", registry=self.registry
        )
        self.draining = Gauge("motley_gateway_draining", "1 after SIGTERM.", registry=self.registry)
        self.ttft_s = self._histogram(
            "ttft_seconds", "Seconds from request to the first streamed bytes."
        )
        self.duration_s = self._histogram(
            "request_duration_seconds", "Seconds from request to the end of its answer."
        )
        self.leg_s = Histogram(
            "motley_gateway_leg_seconds",
            "Seconds of a leg that was answered, to the end of its answer.",
            ("leg",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._answered: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}
        self._plan = Gauge(
            "motley_gateway_plan_info",
            "1 for the plan in force.",
            ("plan_hash",),
            registry=self.registry,
        )

    def plan_in_force(self, plan_hash: str) -> None:
        """Names the plan new requests run on."""
        self._plan.clear()
        self._plan.labels(plan_hash).set(1)

    def answered(self, stage: str, status: int, class_name: str, seconds: float) -> None:
        """Counts a request that has ended."""
        key = (stage, status, class_name)
        known = self._answered.get(key)
        if known is None:
            labels = self.requests.labels(stage, str(status), class_name)
            known = self._answered[key] = (labels, self.duration_s.labels(class_name))
        known[0].inc()
        known[1].observe(seconds)

    def render(self) -> bytes:
        """The Prometheus text form."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"motley_gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"motley_gateway_{name}", text, ("class",), buckets=_BUCKETS_S, registry=self.registry
        )
