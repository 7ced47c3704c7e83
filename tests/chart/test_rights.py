"""What the audit log says that the operator was refused."""

from __future__ import annotations

from typing import Any

from e2e.rights import USER, of_events


def event(verb: str, resource: str, namespace: str, decision: str = "allow") -> dict[str, Any]:
    return {
        "user": {"username": USER},
        "verb": verb,
        "objectRef": {"resource": resource, "namespace": namespace},
        "annotations": {"authorization.k8s.io/decision": decision},
        "responseStatus": {"code": 403 if decision == "forbid" else 200, "message": "no"},
    }


def test_what_is_never_granted_there_was_refused() -> None:
    found = of_events([event("list", "pods", "a"), event("list", "pods", "b", "forbid")])
    assert found.refused == [" pods list: no"]


def test_a_refusal_before_the_server_had_read_its_roles_is_none() -> None:
    found = of_events([event("watch", "nodes", "", "forbid"), event("watch", "nodes", "")])
    assert found.refused == []
    assert found.used == {("", "nodes", "watch")}
