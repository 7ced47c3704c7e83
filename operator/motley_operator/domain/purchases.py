"""Requests for nodes by name: cluster-autoscaler's ProvisioningRequest, and what it answers.

A request asks for the nodes of several claims together, and says in an annotation which. Nothing else
is remembered: a claim that a live request names is asked for already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from motley_operator.domain.facts import ClusterFacts, Document
from motley_operator.domain.names import key_of

REQUEST: Final = "ProvisioningRequest"
TEMPLATE: Final = "PodTemplate"
CLAIMS: Final = "motley.dev/claims"  # on a request: the claims whose nodes it asks for
# Source: autoscaler/cluster-autoscaler/apis, provisioningrequest/autoscaling.x-k8s.io/v1/types.go.
CONSUMES: Final = "autoscaling.x-k8s.io/consume-provisioning-request"
CLASS: Final = "autoscaling.x-k8s.io/provisioning-class-name"
PROVISIONED, ACCEPTED = "Provisioned", "Accepted"
OVER = ("Failed", "CapacityRevoked", "BookingExpired")  # no node of it will come any more


def claims_of(request: Document) -> tuple[str, ...]:
    """The claims whose nodes a request asks for."""
    annotations = request["metadata"].get("annotations") or {}
    return tuple(filter(None, str(annotations.get(CLAIMS, "")).split(",")))


def live_requests(facts: ClusterFacts) -> dict[tuple[str, str], Document]:
    """The request that names a claim, by resource key and claim; those being deleted are none."""
    found: dict[tuple[str, str], Document] = {}
    for (kind, namespace, _), document in sorted(facts.owned.items()):
        metadata = document["metadata"]
        if kind == REQUEST and not metadata.get("deletionTimestamp"):
            key = key_of(metadata.get("labels") or {}, namespace)
            found |= {(key, claim): document for claim in claims_of(document)}
    return found


def why_over(request: Document) -> str:
    """Why no node of a request will come; empty while one may."""
    rows = _true(request)
    return next((f"{kind}: {rows[kind]}".rstrip(": ") for kind in OVER if kind in rows), "")


def how_far(request: Document) -> str:
    """In words how far a request is."""
    if over := why_over(request):
        return over
    rows = _true(request)
    if PROVISIONED in rows:
        return "provisioned"
    return "accepted" if ACCEPTED in rows else "not accepted by an autoscaler yet"


def _true(request: Document) -> Mapping[str, str]:
    """Messages of the conditions that hold, by type."""
    status: Any = request.get("status") or {}
    rows = status.get("conditions") or ()
    return {str(r.get("type")): str(r.get("message") or "") for r in rows if r["status"] == "True"}
