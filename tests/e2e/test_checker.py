"""The checker must accept lawful logs and refuse each kind of unlawful one."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from e2e.amounts import quantity
from e2e.checker import Judge, assert_lawful, check
from e2e.cluster import audit
from e2e.testing import Event, Log, init, pod

LAWFUL: dict[str, Callable[[], Log]] = {
    "two pods that fill a node exactly": lambda: (
        Log().node().pod("a", node="n1").pod("b", pin="n1")
    ),
    "a pod that comes after one was removed": lambda: (
        Log()
        .node()
        .pod("a", gpus=8, node="n1")
        .pod("a", gpus=8, node="n1", verb="delete", grace_s=30)
        .pod("a", gpus=8, node="n1", verb="delete", grace_s=0)
        .pod("b", gpus=8, node="n1")
    ),
    "a pod that comes after one finished": lambda: (
        Log()
        .node()
        .pod("a", gpus=8, node="n1", replica="0")
        .pod("a", gpus=8, node="n1", replica="0", verb="patch", phase="Succeeded")
        .pod("b", gpus=8, node="n1", replica="0")
    ),
    "the same replica number of another stage or rank": lambda: (
        Log()
        .node(gpus=99)
        .pod("a", replica="0", labels={"motley.dev/stage": "small", "motley.dev/rank": "0"})
        .pod("b", replica="0", labels={"motley.dev/stage": "large", "motley.dev/rank": "0"})
        .pod("c", replica="0", labels={"motley.dev/stage": "large", "motley.dev/rank": "1"})
    ),
    "a node that shrinks under its pods": lambda: (
        Log().node().pod("a", gpus=8, node="n1").node(gpus=4)
    ),
    "pods of a node that is gone": lambda: (
        Log().node().pod("a", gpus=8, node="n1").node_gone().pod("b", gpus=8, pin="n1")
    ),
    "a pod that was evicted before it had a node": lambda: (
        Log()
        .pod("a", phase="Pending")
        .write(
            "create",
            "pods",
            {"kind": "Eviction", "metadata": {"name": "a", "namespace": "ns"}},
            subresource="eviction",
            answer={"kind": "Status", "apiVersion": "v1"},
        )
        .node()
    ),
    "a write that was refused": lambda: (
        Log().node().write("create", "pods", pod("a", gpus=9, node="n1"), code=403)
    ),
    "an init container that peaks below the containers": lambda: (
        Log().node().pod("a", gpus=8, node="n1", init=[init(8)])
    ),
}

UNLAWFUL: dict[str, tuple[str, Callable[[], Log]]] = {
    "one GPU too many, bound": (
        "requests fit the node",
        lambda: Log().node().pod("a", node="n1").pod("b", gpus=5, node="n1"),
    ),
    "one GPU too many, pinned and still Pending": (
        "requests fit the node",
        lambda: Log().node().pod("a", node="n1").pod("b", gpus=5, pin="n1", phase="Pending"),
    ),
    "one GPU too many by a binding": (
        "requests fit the node",
        lambda: Log().node().pod("a", gpus=8, node="n1").pod("b").bind("b", "n1"),
    ),
    "a place taken while the pod there is still being deleted": (
        "requests fit the node",
        lambda: (
            Log()
            .node()
            .pod("a", gpus=8, node="n1")
            .pod("a", gpus=8, node="n1", verb="delete", grace_s=30)
            .pod("b", gpus=8, pin="n1", phase="Pending")
        ),
    ),
    "a place taken while a finalizer holds the pod": (
        "requests fit the node",
        lambda: (
            Log()
            .node()
            .pod("a", gpus=8, node="n1")
            .pod("a", gpus=8, node="n1", verb="delete", grace_s=0, finalizers=["f"])
            .pod("b", gpus=8, pin="n1")
        ),
    ),
    "too much memory": (
        "requests fit the node",
        lambda: Log().node().pod("a", node="n1", requests={"memory": "65Gi"}),
    ),
    "too many pods": (
        "requests fit the node",
        lambda: (
            Log()
            .node()
            .pod("a", gpus=0, node="n1")
            .pod("b", gpus=0, node="n1")
            .pod("c", gpus=0, node="n1")
            .pod("d", gpus=0, node="n1")
        ),
    ),
    "GPUs on a node that has none": (
        "requests fit the node",
        lambda: Log().node(gpus=0).pod("a", gpus=1, node="n1"),
    ),
    "a sidecar that does not fit beside the container": (
        "requests fit the node",
        lambda: Log().node().pod("a", gpus=8, node="n1", init=[init(1, "Always")]),
    ),
    "a node of that name back while the old one's pods are there": (
        "requests fit the node",
        lambda: (
            Log()
            .node()
            .pod("a", node="n1")
            .node_gone()
            .node(gpus=4, uid="node-2")
            .pod("b", gpus=4, pin="n1")
        ),
    ),
    "two live pods of one replica": (
        "one live pod per replica",
        lambda: Log().node(gpus=99).pod("a", replica="0").pod("b", replica="0"),
    ),
    "a replica made again before the old pod is gone": (
        "one live pod per replica",
        lambda: (
            Log()
            .node(gpus=99)
            .pod("a", node="n1", replica="0")
            .pod("a", node="n1", replica="0", verb="delete", grace_s=30)
            .pod("b", node="n1", replica="0")
        ),
    ),
    "a pod on a node the log never saw": (
        "the log is whole",
        lambda: Log().node().pod("a", node="n2"),
    ),
}


@pytest.mark.parametrize("case", LAWFUL)
def test_a_lawful_log_is_accepted(case: str) -> None:
    assert_lawful(LAWFUL[case]().records())


@pytest.mark.parametrize("case", UNLAWFUL)
def test_an_unlawful_log_is_refused_for_the_rule_it_breaks(case: str) -> None:
    rule, log = UNLAWFUL[case]
    assert log().rules() == [rule]
    with pytest.raises(AssertionError, match=rule):
        assert_lawful(log().records())


@pytest.mark.parametrize(("after_s", "rules"), [(29, []), (31, ["no pod waits"])])
def test_a_pod_may_be_pending_for_thirty_seconds_and_no_longer(
    after_s: int, rules: list[str]
) -> None:
    created_s = 1767225600.0  # 2026-01-01T00:00:00Z
    log = Log().node().pod("a", pin="n1", phase="Pending")
    assert log.rules(ends_s=created_s + after_s) == rules


def test_writes_that_were_logged_out_of_order_are_replayed_in_the_order_of_the_store() -> None:
    log = Log().node().pod("a", gpus=8, node="n1")
    log.pod("a", gpus=8, node="n1", verb="delete", grace_s=0).pod("b", gpus=8, node="n1")
    log.events[2], log.events[3] = log.events[3], log.events[2]
    assert log.rules() == []


@pytest.mark.parametrize("late", [1, 3])
def test_a_log_that_grows_is_judged_as_the_whole_of_it(tmp_path: Path, late: int) -> None:
    for case in (*LAWFUL.values(), *(log for _, log in UNLAWFUL.values())):
        log, tail, judge = case(), audit.Tail(tmp_path / "log"), Judge()
        tail.path.write_bytes(b"")
        for line in (json.dumps(event) for event in log.events):
            for part in (line[:9], line[9:] + "\n"):  # a line is read only once it is whole
                with tail.path.open("a") as handle:
                    handle.write(part)
                judge.see(tail.new(late))
        judge.see(tail.new(late=0))
        assert judge.verdict() == check(log.records())
        tail.path.unlink()


def test_a_write_that_is_logged_after_the_log_was_read_is_still_put_in_its_place(
    tmp_path: Path,
) -> None:
    log = Log().node().pod("a", gpus=8, node="n1")
    log.pod("a", gpus=8, node="n1", verb="delete", grace_s=0).pod("b", gpus=8, node="n1")
    lines = [f"{json.dumps(event)}\n" for event in log.events]
    tail, judge = audit.Tail(tmp_path / "log"), Judge()
    tail.path.write_text("".join([*lines[:2], lines[3]]))
    judge.see(tail.new(late=1))
    with tail.path.open("a") as handle:
        handle.write(lines[2])
    judge.see(tail.new(late=0))
    assert judge.verdict() == []


def _collection(log: Log, *pods: Event, **options: int) -> Log:
    """Deletes a collection: the answer lists the pods as they were before."""
    items = {"kind": "PodList", "items": list(pods)}
    sent = {"kind": "DeleteOptions", "metadata": {"namespace": "ns"}, **options}
    return log.write("deletecollection", "pods", sent, answer=items)


def test_a_pod_of_a_deleted_collection_keeps_its_place_until_the_kubelet_removes_it() -> None:
    running = pod("a", gpus=8, node="n1")
    running["spec"]["terminationGracePeriodSeconds"] = 30
    log = _collection(Log().node().pod("a", gpus=8, node="n1"), running)
    assert log.pod("b", gpus=8, node="n1").rules() == ["requests fit the node"]
    log = _collection(Log().node().pod("a", gpus=8, node="n1"), running)
    log.pod("a", gpus=8, node="n1", verb="delete", grace_s=0)
    assert log.pod("b", gpus=8, node="n1").rules() == []


def test_a_pod_of_a_deleted_collection_goes_at_once_where_there_is_no_grace() -> None:
    running = pod("a", gpus=8, node="n1")
    running["spec"]["terminationGracePeriodSeconds"] = 30
    log = _collection(Log().node().pod("a", gpus=8, node="n1"), running, gracePeriodSeconds=0)
    assert log.pod("b", gpus=8, node="n1").rules() == []
    pending = pod("a", gpus=8, pin="n1", phase="Pending")
    log = _collection(Log().node().pod("a", gpus=8, pin="n1", phase="Pending"), pending)
    assert log.pod("b", gpus=8, node="n1").rules() == []


def test_a_status_that_is_logged_after_the_pod_was_gone_does_not_bring_it_back() -> None:
    pending = pod("a", gpus=8, pin="n1", phase="Pending")
    log = _collection(Log().node().pod("a", gpus=8, pin="n1", phase="Pending"), pending)
    log.pod("a", gpus=8, pin="n1", phase="Pending", verb="patch")
    assert log.pod("b", gpus=8, node="n1").rules() == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2Gi", str(2**31)),
        ("8", "8"),
        ("1e3", "1000"),
        ("3k", "3000"),
        ("1E", "1e18"),
    ],
)
def test_a_quantity_reads_as_kubernetes_reads_it(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)
