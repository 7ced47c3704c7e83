"""Replicas over several nodes: the first pod answers requests, the others follow it.

Every pod runs one fragment, finds the first by its DNS name below the stage's headless Service
(which publishes addresses before they are ready) and is told the layers of all. Their process group
does not survive one of them, so containers are never restarted in place: one failed pod ends the
replica, and it is made anew whole.
"""

from __future__ import annotations

from dataclasses import replace

from motley_operator.manifests.launch import Process, rendered
from motley_operator.manifests.pods import Seat, host_address


def in_pipeline(process: Process, seat: Seat) -> Process:
    """The process of one fragment of a replica; unchanged where the replica is of one piece."""
    replica = seat.replica
    if not replica.pipeline:
        return process
    pipeline = process.launch.pipeline
    assert pipeline is not None, f"{replica.engine} runs no pipelines; the planner lists none"
    values = {
        "nodes": str(len(replica.nodes)),
        "rank": str(seat.rank),
        "leader": host_address(seat.owner, replica),
        "pipeline_port": str(pipeline.port),
        "layers": ",".join(str(fragment.layers) for fragment in replica.pipeline),
    }
    added = rendered(pipeline.args, values)
    if seat.rank > 0:
        added += rendered(pipeline.worker_args, values)
    env = dict(zip(pipeline.env, rendered(tuple(pipeline.env.values()), values), strict=True))
    return replace(process, args=[*process.args, *added], env={**process.env, **env})
