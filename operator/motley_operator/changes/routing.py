"""Routing while replicas are replaced: those that stand by go on answering.

The plan's routing names planned replicas only. What a replica that stands by can do, and what it
was planned to take, is read back from the live routing ConfigMap. Shares are taken over the replicas
that answer, so the planned ones take over as they become ready.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import Document, PodFacts
from motley_operator.domain.names import (
    INSTANCE,
    REPLICA,
    ROUTING_KEY,
    STAGE,
    routing_name,
)
from motley_operator.manifests.frame import sealed

_PHASES = ("replicas", "prefill", "decode")


def with_standing_by(
    manifest: Manifest, live: Document | None, pods: Sequence[PodFacts]
) -> Manifest:
    """The manifest; a routing ConfigMap with the replicas of `pods` that the live one knows."""
    metadata = manifest["metadata"]
    mine = [
        pod
        for pod in pods
        if pod.namespace == metadata["namespace"]
        and metadata["name"] == routing_name(pod.labels.get(INSTANCE, ""))
    ]
    if manifest["kind"] != "ConfigMap" or not mine or live is None:
        return manifest
    try:
        known = json.loads((live.get("data") or {}).get(ROUTING_KEY, ""))
        routing = json.loads(manifest["data"][ROUTING_KEY])
        kept = {
            (pod.labels[STAGE], f"{pod.labels[INSTANCE]}-{pod.labels[REPLICA]}") for pod in mine
        }
        for stage in routing["stages"]:
            for phase in _PHASES:
                if standing := _known(known, stage, kept, phase):
                    stage[phase] = [*stage.get(phase, []), *standing]
            _keep_flows(known, stage)
    except (ValueError, KeyError, TypeError, AttributeError):
        return manifest  # somebody wrote into it; the plan's own routing repairs it
    text = json.dumps(routing, sort_keys=True)
    return sealed({**manifest, "data": {**manifest["data"], ROUTING_KEY: text}})


def _known(
    known: dict[str, Any], stage: dict[str, Any], kept: set[tuple[str, str]], phase: str
) -> list[dict[str, Any]]:
    """The replicas of a phase that stand by and that the plan's routing does not name."""
    planned = {r["name"] for each in _PHASES for r in stage.get(each, [])}
    return [
        replica
        for old in known["stages"]
        if old["name"] == stage["name"]
        for replica in old.get(phase, [])
        if (stage["name"], replica["name"]) in kept and replica["name"] not in planned
    ]


def _keep_flows(known: dict[str, Any], stage: dict[str, Any]) -> None:
    """Lets pairs go on whose both ends stand by or are planned, beside the plan's own flows.

    A pair of a prefill replica that stands by with a decode replica that is not ready yet would
    fail; the old flows lead to what answers now, and shrink with their replicas.
    """
    planned = {_ends(flow) for flow in stage.get("flows", [])}
    groups = {p: {r.get("group", "") for r in stage.get(p, [])} for p in ("prefill", "decode")}
    for old in known["stages"]:
        kept = [
            flow
            for flow in old.get("flows", [])
            if old["name"] == stage["name"]
            and _ends(flow) not in planned
            and flow["from"] in groups["prefill"]
            and flow["to"] in groups["decode"]
        ]
        if kept:
            stage["flows"] = [*stage.get("flows", []), *kept]
            stage.setdefault("handoff", old["handoff"])


def _ends(flow: dict[str, Any]) -> tuple[str, str, str]:
    return flow["class"], flow["from"], flow["to"]
