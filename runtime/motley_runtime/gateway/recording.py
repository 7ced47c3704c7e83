"""What is kept of a request that has ended: its metrics, its log line, its span."""

from __future__ import annotations

import logging
import time

from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics

log = logging.getLogger("motley.gateway")


def record(job: Job, status: int, began_s: float, metrics: Metrics) -> None:
    """Counts a request, logs it without its prompt, and ends its trace."""
    duration_s = time.monotonic() - began_s
    metrics.answered(job.stage, status, job.class_name, duration_s)
    fields = {
        "request_id": job.request_id,
        "status": status,
        "class": job.class_name,
        "policy": job.policy.id if job.policy else None,
        "path": ",".join(job.visits),
        "plan": job.dispatcher.table.plan_hash,
        "client": job.client.name or None,
        "stream": job.request.is_stream,
        "duration_s": round(duration_s, 4),
    }
    if job.request.is_stream and job.first_bytes_s is not None:
        fields["ttft_s"] = round(job.first_bytes_s - began_s, 4)
        metrics.ttft_s.labels(job.class_name).observe(job.first_bytes_s - began_s)
    log.info("request", extra={"fields": fields})
    job.trace.end(fields)
