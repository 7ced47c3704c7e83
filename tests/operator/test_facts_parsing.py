"""Nodes and pods as JSON become the numbers the scheduler would count."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from motley_operator.admission.quantities import milli, read_quantity, whole
from motley_operator.domain.facts import Room
from motley_operator.facts.nodes import parse_node
from motley_operator.facts.pods import parse_pod, pinned_node, requests
from motley_operator.facts.resources import config_map_references, planned_part
from motley_operator.settings import LOSS_TOLERATION_SECONDS
from motley_operator.translate.running import is_lost

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("12", 12), ("500m", Fraction(1, 2)), ("16Gi", 16 * GIB), ("2k", 2000),
        ("1e3", 1000), ("1.5", Fraction(3, 2)), ("100n", Fraction(1, 10**7)), (None, 0), (7, 7),
        ("1E", 10**18), ("1Ei", 2**60), ("128974848", 128974848), ("-1", -1), ("12E2", 1200),
    ],
)  # fmt: skip
def test_quantities_are_read_exactly(text: str | int | None, value: Fraction) -> None:
    assert read_quantity(text) == value


def test_requests_are_rounded_up_as_the_scheduler_does() -> None:
    assert (milli("100500u"), whole("1500m"), milli("2")) == (101, 2, 2000)


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        read_quantity("many")


def container(cpu: str, memory: str = "0", gpus: int = 0, **more: Any) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"resources": {"requests": amounts}, **more}


SIDECAR = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            {"containers": [container("1", "1Gi", 2), container("500m", "1Gi")]},
            Room(2, 1500, 2 * GIB, 0, 1),
            id="containers add up",
        ),
        pytest.param(
            {"containers": [container("1")], "initContainers": [container("4"), container("2")]},
            Room(0, 4000, 0, 0, 1),
            id="the largest init container counts alone",
        ),
        pytest.param(
            {
                "containers": [container("1")],
                "initContainers": [container("2", **SIDECAR), container("3")],
            },
            Room(0, 5000, 0, 0, 1),
            id="an init container runs beside the sidecars before it",
        ),
        pytest.param(
            {
                "containers": [container("1")],
                "initContainers": [container("3"), container("2", **SIDECAR)],
            },
            Room(0, 3000, 0, 0, 1),
            id="and not beside those after it",
        ),
        pytest.param(
            {"containers": [container("1")], "overhead": {"cpu": "250m", "memory": "1Gi"}},
            Room(0, 1250, GIB, 0, 1),
            id="overhead is added",
        ),
        pytest.param(
            {"containers": [container("1", gpus=1)], "resources": {"requests": {"cpu": "8"}}},
            Room(1, 8000, 0, 0, 1),
            id="what is asked for the whole pod wins",
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {"amd.com/gpu": "4", "cpu": "1"}}}]},
            Room(4, 1000, 0, 0, 1),
            id="a limit without a request is the request",
        ),
    ],
)
def test_a_pod_takes_what_the_scheduler_counts(spec: dict[str, Any], expected: Room) -> None:
    assert requests(spec) == expected


def pinned(*values: list[str], key: str = "metadata.name") -> dict[str, Any]:
    terms = [{"matchFields": [{"key": key, "operator": "In", "values": v}]} for v in values]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


@pytest.mark.parametrize(
    ("spec", "node"),
    [
        (pinned(["n1"]), "n1"),
        (pinned(["n1"], ["n1"]), "n1"),
        (pinned(["n1", "n2"]), None),
        (pinned(["n1"], ["n2"]), None),
        (pinned(["n1"], key="metadata.namespace"), None),
        ({}, None),
    ],
    ids=["one", "twice the same", "two names", "two terms", "another field", "none"],
)
def test_a_pod_is_pinned_only_by_a_single_node_name(spec: dict[str, Any], node: str | None) -> None:
    assert pinned_node(spec) == node


def test_a_pinned_pod_holds_room_before_it_is_bound(pod: Any) -> None:
    document = pod("p0")
    document["spec"].update(pinned(["n7"]))
    facts = parse_pod(document)
    assert (facts.node, facts.bound, facts.requests.gpus) == ("n7", False, 1)


def test_of_a_foreign_pod_only_its_room_is_kept(pod: Any) -> None:
    document = pod("p0", "n0", ours=False)
    document["status"] = {"phase": "Running", "podIP": "10.0.0.1", "reason": "x"}
    facts = parse_pod(document)
    assert (facts.labels, facts.ip, facts.reason, facts.ready) == ({}, None, "", False)


def test_a_pod_of_ours_that_is_being_deleted_says_until_when_it_may_last(pod: Any) -> None:
    document = pod("a")
    assert (parse_pod(document).deleting, parse_pod(document).ends_at) == (False, 0.0)
    document["metadata"]["deletionTimestamp"] = "2027-01-15T08:07:00Z"
    found = parse_pod(document)
    assert (found.deleting, found.ends_at) == (True, 1_800_000_420.0)


def test_the_reason_of_a_pod_is_its_own_or_a_containers(pod: Any) -> None:
    document = pod("p0", "n0")
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    document["status"] = {"phase": "Running", "containerStatuses": [waiting]}
    assert parse_pod(document).reason == "CrashLoopBackOff"
    document["status"] = {"phase": "Failed", "reason": "Evicted"}
    facts = parse_pod(document)
    assert (facts.reason, facts.terminal) == ("Evicted", True)


def crashed(restarts: int, ran_s: int, waits: bool = True) -> dict[str, Any]:
    """The status that a kubelet writes of an engine after so many restarts."""
    end = {
        "exitCode": 137,
        "reason": "Error",
        "startedAt": "2027-01-15T08:00:00Z",
        "finishedAt": f"2027-01-15T{8 + ran_s // 3600:02}:{ran_s // 60 % 60:02}:{ran_s % 60:02}Z",
        "containerID": f"containerd://{restarts}",
    }
    state: dict[str, Any] = {"running": {"startedAt": "2027-01-15T20:00:00Z"}}
    if waits:
        message = "back-off 5m0s restarting failed container=engine pod=p0"
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    ready = {"type": "Ready", "status": "False" if waits else "True"}
    engine = {"name": "engine", "ready": not waits, "restartCount": restarts}
    return {
        "phase": "Running",
        "conditions": [{**ready, "lastTransitionTime": "2027-01-15T20:00:00Z"}],
        "containerStatuses": [engine | {"state": state, "lastState": {"terminated": end}}],
    }


def test_of_a_container_that_was_restarted_often_the_last_run_is_told(pod: Any) -> None:
    document = pod("p0", "n0")
    assert parse_pod(document).last_run_s is None
    for waits in (True, False):
        assert parse_pod({**document, "status": crashed(4, 20, waits)}).last_run_s is None
        assert parse_pod({**document, "status": crashed(5, 20, waits)}).last_run_s == 20.0
    assert parse_pod({**document, "status": crashed(40, 5 * 3600)}).last_run_s == 18_000.0
    theirs = pod("p1", "n0", ours=False)
    assert parse_pod({**theirs, "status": crashed(9, 20)}).last_run_s is None


def test_a_restart_alone_is_no_news_on_either_side_of_the_line(pod: Any) -> None:
    document = pod("p0", "n0")
    for few, more in ((0, 1), (1, 4), (5, 6), (6, 60)):
        told = [parse_pod({**document, "status": crashed(n, 20)}) for n in (few, more)]
        assert told[0] == told[1]


def test_a_pod_says_since_when_it_is_not_ready(pod: Any) -> None:
    document = pod("engine")
    document["metadata"]["creationTimestamp"] = "1970-01-01T00:01:00Z"
    assert parse_pod(document).unready_since == 60.0
    fell = {"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:02:00Z"}
    document["status"] |= {"conditions": [fell]}
    assert parse_pod(document).unready_since == 120.0
    document["status"]["conditions"] = [{**fell, "status": "True"}]
    assert parse_pod(document).unready_since == 0.0
    foreign = parse_pod({**document, "metadata": {**document["metadata"], "labels": {}}})
    assert foreign.unready_since == 0.0


def test_two_heartbeats_are_the_same_node(node: Any) -> None:
    later = node("n0")
    later["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-06-01T00:00:00Z"
    later["metadata"]["resourceVersion"] = "77"
    later["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = "10.0.0.1"
    assert parse_node(node("n0")) == parse_node(later)


@pytest.mark.parametrize("silent_s", [4.06, 4.5, 4.99])
def test_a_flap_shorter_than_what_pods_bear_loses_no_node(node: Any, silent_s: float) -> None:
    since = 1767225610.9
    condition = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:10Z"}
    facts = parse_node(node("n0", conditions=[condition]))
    assert not is_lost(facts, since + silent_s, LOSS_TOLERATION_SECONDS)
    assert is_lost(facts, since + LOSS_TOLERATION_SECONDS + 1.0, LOSS_TOLERATION_SECONDS)


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_is_not_ready_says_since_when_at_the_latest(node: Any, status: str) -> None:
    since = "2026-01-01T00:00:10Z"
    condition = {"type": "Ready", "status": status, "lastTransitionTime": since}
    facts = parse_node(node("n0", conditions=[condition]))
    # The time is cut to whole seconds: it became so in the second that begins then.
    assert (facts.ready, facts.not_ready_since) == (False, 1767225611.0)


@pytest.mark.parametrize(
    ("labels", "resource", "label"),
    [
        ({"nvidia.com/gpu.product": "Tesla-T4"}, "nvidia.com/gpu", "Tesla-T4"),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, "nvidia.com/gpu", "nvidia-l4"),
        ({"amd.com/gpu.product-name": "AMD_Instinct_MI300X"}, "amd.com/gpu", "AMD_Instinct_MI300X"),
        ({}, "nvidia.com/gpu", None),
    ],
    ids=["feature discovery", "GKE", "AMD", "no label"],
)
def test_a_node_shows_its_gpus_as_its_vendor_labels_them(
    node: Any, labels: dict[str, str], resource: str, label: str | None
) -> None:
    document = node("n0", allocatable={resource: "8", "cpu": "8"})
    document["metadata"]["labels"] = labels
    facts = parse_node(document)
    assert (facts.gpu_resource, facts.gpu_label, facts.allocatable.gpus) == (resource, label, 8)


def test_references_inside_other_systems_content_are_not_ours() -> None:
    reference = {"configMapKeyRef": {"name": "mine", "key": "k"}}
    foreign = {"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "theirs"}}}]}]}
    document = {
        "metadata": {"namespace": "a"},
        "spec": {"stages": [{"profile": reference}], "podTemplate": {"spec": foreign}},
    }
    assert config_map_references(document) == {("a", "mine")}


def test_a_deployments_own_bookkeeping_is_no_change() -> None:
    metadata = {"name": "g", "annotations": {"motley.dev/inputs-hash": "1"}}
    before = {"metadata": metadata, "spec": {}, "status": {"readyReplicas": 1, "conditions": [1]}}
    noted = {**metadata["annotations"], "deployment.kubernetes.io/revision": "2"}
    after = {
        "metadata": {**metadata, "annotations": noted, "resourceVersion": "9"},
        "spec": {},
        "status": {"readyReplicas": 1, "conditions": [2]},
    }
    assert planned_part("Deployment", before) == planned_part("Deployment", after)
    after["status"] = {"readyReplicas": 0}
    assert planned_part("Deployment", before) != planned_part("Deployment", after)
