"""The CRDs on a real API server: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.fixtures import Cluster
from kubernetes import client, config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, NotFoundError

from motley_operator.api import KINDS, parse
from motley_operator.api.crd import crds
from motley_operator.status.empties import without_empty_maps

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load((ROOT / "tests/manifests/wrong.yaml").read_text(encoding="utf-8"))
REFUSED = [row for row in TABLE["rows"] if row["layer"] != "semantic"]
ACCEPTED = [row for row in TABLE["rows"] if row["layer"] == "semantic"]
EXAMPLES = [
    document
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
NAMESPACES = ("wrong", *(d["metadata"]["name"] for d in EXAMPLES if d["kind"] == "Namespace"))


class Server:
    """The few calls of this file, with strict field validation."""

    def __init__(self, kubeconfig: Path) -> None:
        self.api = config.new_client_from_config(str(kubeconfig))
        self.dynamic = DynamicClient(self.api)

    def submit(self, document: dict[str, Any]) -> dict[str, Any]:
        """What the server would store, defaults included; nothing is kept. Raises: DynamicApiError."""
        kind, metadata = self._kind(document), document["metadata"]

        def options() -> dict[str, Any]:  # the client adds to the list, so each call needs its own
            return {"dry_run": "All", "query_params": [("fieldValidation", "Strict")]}

        space = metadata.get("namespace")
        try:
            kept = kind.create(body=document, namespace=space, **options())
        except ConflictError:  # such an object is there: the document passed, as its replacement
            there = kind.get(name=metadata["name"], namespace=space).to_dict()
            version = {"metadata": {"resourceVersion": there["metadata"]["resourceVersion"]}}
            kept = kind.replace(body=merged(document, version), namespace=space, **options())
        found: dict[str, Any] = kept.to_dict()
        return found

    def apply(self, document: dict[str, Any], dry_run: bool = False) -> dict[str, Any]:
        """The object after a server-side apply. Raises: DynamicApiError."""
        metadata = document["metadata"]
        kept = self._kind(document).server_side_apply(
            body=document,
            name=metadata["name"],
            namespace=metadata.get("namespace"),
            field_manager="test-crds",
            force_conflicts=True,
            **({"dry_run": "All"} if dry_run else {}),
        )
        found: dict[str, Any] = kept.to_dict()
        return found

    def report(self, document: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """The object after a server-side apply of its status. Raises: DynamicApiError."""
        kind, name = self._kind(document), document["metadata"]["name"]
        path = f"{kind.path(name=name, namespace=None)}/status"
        kept = self.dynamic.request(
            "patch",
            path,
            body={**document, "status": status},
            content_type="application/apply-patch+yaml",
            query_params=[("fieldManager", "motley-status"), ("force", "true")],
        )
        found: dict[str, Any] = kept.to_dict()
        return found

    def delete(self, document: dict[str, Any]) -> None:
        """Deletes an object that may be gone already."""
        metadata = document["metadata"]
        try:
            self._kind(document).delete(name=metadata["name"], namespace=metadata.get("namespace"))
        except NotFoundError:
            return

    def _kind(self, document: dict[str, Any]) -> Any:
        return self.dynamic.resources.get(api_version=document["apiVersion"], kind=document["kind"])


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    """The API server with the CRDs established and the namespaces there."""
    hands = Server(cluster.kubeconfig)
    for document in crds().values():
        hands.apply(document)
    for name in NAMESPACES:
        metadata = {"name": name}
        hands.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    deadline = time.monotonic() + 30
    while not all(_is_established(hands, d["metadata"]["name"]) for d in crds().values()):
        assert time.monotonic() < deadline, "the CRDs were not established in 30 s"
        time.sleep(0.1)
    yield Server(cluster.kubeconfig)


def _is_established(server: Server, name: str) -> bool:
    found = client.ApiextensionsV1Api(server.api).read_custom_resource_definition(name)
    conditions = {c.type: c.status for c in found.status.conditions or ()}
    assert conditions.get("NonStructuralSchema") != "True"
    return conditions.get("Established") == "True"


def merged(base: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def manifest(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = merged(TABLE["bases"][row["base"]], row.get("patch", {}))
    return found


@pytest.mark.parametrize("base", TABLE["bases"])
def test_a_base_of_the_table_is_accepted(server: Server, base: str) -> None:
    server.submit(TABLE["bases"][base])


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_an_example_is_accepted(server: Server, document: dict[str, Any]) -> None:
    if document["kind"] not in KINDS:
        server.apply(document, dry_run=True)
    else:
        stored = server.submit(document)
        # The server fills in the same defaults as the models, and prunes nothing.
        assert parse(stored).document()["spec"] == parse(document).document()["spec"]


@pytest.mark.parametrize("row", REFUSED, ids=[row["name"] for row in REFUSED])
def test_the_server_refuses_and_names_the_field(server: Server, row: dict[str, Any]) -> None:
    with pytest.raises(DynamicApiError) as refusal:
        server.submit(manifest(row))
    assert refusal.value.status in (400, 422, 500)
    words = json.loads(refusal.value.body)["message"]
    if row["layer"] == "cel":
        assert row["says"] in words
    else:
        last = row["field"].rsplit(".", 1)[-1].split("[")[0]
        assert last in words


@pytest.mark.parametrize("row", ACCEPTED, ids=[row["name"] for row in ACCEPTED])
def test_the_server_accepts_what_only_motley_can_judge(server: Server, row: dict[str, Any]) -> None:
    server.submit(manifest(row))


def test_a_job_keeps_its_model(server: Server) -> None:
    job = merged(TABLE["bases"]["job"], {"metadata": {"name": "fixed-model"}})
    server.apply(job)
    try:
        other = merged(job, {"spec": {"model": {"id": "Qwen/Qwen2.5-14B-Instruct"}}})
        with pytest.raises(DynamicApiError) as refusal:
            server.submit(other)
        assert "create another RLJob" in json.loads(refusal.value.body)["message"]
        server.submit(merged(job, {"spec": {"suspend": True}}))
    finally:
        server.delete(job)


def test_a_map_of_a_status_may_lose_its_last_entry(server: Server) -> None:
    """An empty one that had an entry would be null, which the schema refuses."""
    fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default"},
    }
    told = {"observedGeneration": 1, "dollarsPerHourByNamespace": {"team-a": "4"}, "suspects": []}
    empty = {**told, "dollarsPerHourByNamespace": {}}
    server.apply({**fleet, "spec": {}})
    try:
        assert server.report(fleet, told)["status"] == told
        with pytest.raises(DynamicApiError, match="null"):
            server.report(fleet, empty)
        left = server.report(fleet, without_empty_maps(empty))["status"]
        assert left == {"observedGeneration": 1, "suspects": []}
    finally:
        server.delete(fleet)
