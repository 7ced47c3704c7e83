"""What counts as left behind: every kind that Motley makes is looked at, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.belongings import MADE, orphans
from e2e.demo_api import Refused

from motley_operator.connection import KINDS
from motley_operator.connection.kinds import OPTIONAL

GOLDENS = Path(__file__).parents[1] / "goldens" / "manifests"
Document = dict[str, Any]


class Server:
    """One namespace with one pool, and one object of one kind."""

    def __init__(self, kind: str, *owners: Document) -> None:
        metadata = {"name": "thing", "ownerReferences": list(owners)}
        self.items = {KINDS[kind].path("team-a"): [{"metadata": metadata}]}

    def list(self, kind: str) -> list[Document]:
        return [{"metadata": {"uid": "alive"}}] if kind == "ServingPool" else []

    def request(self, method: str, path: str) -> Document:
        place, _, selector = path.partition("?labelSelector=")
        assert (method, selector) == ("GET", "app.kubernetes.io/managed-by=motley")
        return {"items": self.items.get(place, [])}


def owner(uid: str, kind: str = "ServingPool") -> Document:
    return {"kind": kind, "uid": uid}


@pytest.mark.parametrize("kind", MADE)
def test_an_object_of_any_kind_is_an_orphan_once_its_resource_is_gone(kind: str) -> None:
    assert orphans(Server(kind, owner("gone")), "team-a") == [f"{kind} thing"]  # type: ignore[arg-type]
    assert orphans(Server(kind), "team-a") == [f"{kind} thing"]  # type: ignore[arg-type]
    assert orphans(Server(kind, owner("alive")), "team-a") == []  # type: ignore[arg-type]


@pytest.mark.parametrize("between", ["ReplicaSet", "Job"])
def test_a_pod_goes_with_what_it_was_made_by(between: str) -> None:
    assert orphans(Server("Pod", owner("any", between)), "team-a") == []  # type: ignore[arg-type]


def test_kinds_of_others_that_are_not_installed_are_left_out_and_no_other() -> None:
    class Without(Server):
        lacks = ""

        def request(self, method: str, path: str) -> Document:
            if path.partition("?")[0] == KINDS[self.lacks].path("team-a"):
                raise Refused(404, path, "not found")
            return super().request(method, path)

    server = Without("Service", owner("gone"))
    for server.lacks in OPTIONAL:
        assert orphans(server, "team-a") == ["Service thing"]  # type: ignore[arg-type]
    server.lacks = "Role"
    with pytest.raises(Refused):
        orphans(server, "team-a")  # type: ignore[arg-type]


def test_every_kind_that_is_built_is_looked_at() -> None:
    goldens = sorted(GOLDENS.glob("*.yaml"))
    built = {one["kind"] for path in goldens for one in yaml.safe_load_all(path.read_text())}
    assert built <= set(MADE) and {"Pod", "Job", "Role", "PodDisruptionBudget"} <= built
