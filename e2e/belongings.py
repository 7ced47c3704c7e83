"""What Motley has made in a namespace, of every kind that it may make, and what it has left behind."""

from __future__ import annotations

from typing import Any

from e2e.demo_api import Api, Refused
from e2e.demo_picture import OURS
from motley_operator.connection import CUSTOM, KINDS
from motley_operator.connection.kinds import OPTIONAL, owned_kinds
from motley_operator.domain.names import RESOURCE

Document = dict[str, Any]

# Whatever an admin asks for.
MADE = ("Pod", *owned_kinds(network_policies=True, provisioning=True))


def owned(api: Api, namespace: str, kind: str, resource: str = "") -> list[Document]:
    """Objects of a kind that carry Motley's mark, or those of one resource."""
    selector = f"{RESOURCE}={resource}" if resource else OURS
    path = f"{KINDS[kind].path(namespace)}?labelSelector={selector}"
    try:
        items: list[Document] = api.request("GET", path)["items"]
    except Refused as error:
        if error.status == 404 and kind in OPTIONAL:
            return []  # of a CRD that is not installed
        raise
    return items


def orphans(api: Api, namespace: str) -> list[str]:
    """Objects whose resource is gone."""
    alive = {item["metadata"]["uid"] for kind in CUSTOM for item in api.list(kind)}
    return [
        f"{kind} {item['metadata']['name']}"
        for kind in MADE
        for item in owned(api, namespace, kind)
        if not _belongs(item, alive)
    ]


def _belongs(item: Document, alive: set[str]) -> bool:
    owners = item["metadata"].get("ownerReferences") or ()
    # A gateway's pod belongs to a ReplicaSet, that of a Job to the Job, and goes with it.
    return any(one["uid"] in alive or one["kind"] in ("ReplicaSet", "Job") for one in owners)
