"""The local control plane does what a cluster does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e.checker import check
from e2e.cluster import processes
from e2e.cluster.binaries import BinariesError, find
from e2e.cluster.components import ORDER
from e2e.cluster.faults import Fault
from e2e.cluster.local import LocalCluster
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.cluster.state import ClusterError
from e2e.fixtures import Cluster
from kubernetes.client.exceptions import ApiException

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(cluster: Cluster) -> LocalCluster:
    if cluster.local is None:
        pytest.skip("MOTLEY_KUBECONFIG chose a cluster that is not ours to stop and start")
    return cluster.local


PATIENCE_S = 60.0  # controllers that lost etcd wait longer and longer before they try again


def pod(name: str, gpus: int = 1, **changes: Any) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": "engine",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
    }
    annotations = changes.pop("annotations", {})
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [container], **changes},
    }


def phase(scenario: Scenario, namespace: str, name: str) -> str:
    try:
        return str(scenario.core.read_namespaced_pod(name, namespace).status.phase)
    except ApiException as error:
        if error.status == 404:
            return "gone"
        raise


def run_pod(scenario: Scenario, node: str, name: str = "one", **changes: Any) -> str:
    """Runs a pod on a node of its own; the namespace."""
    namespace = scenario.namespace()
    scenario.wait_until(
        lambda: bool(scenario.core.list_namespaced_service_account(namespace).items),
        PATIENCE_S,
        "the default service account",
    )
    selector = {"kubernetes.io/hostname": node}
    scenario.core.create_namespaced_pod(namespace, pod(name, nodeSelector=selector, **changes))
    scenario.wait_until(
        lambda: phase(scenario, namespace, name) == "Running", PATIENCE_S, "Running"
    )
    return namespace


def test_up_when_it_is_up_changes_nothing(own: LocalCluster) -> None:
    before = own.state()
    own.up()
    assert own.state() == before


def test_a_gpu_deployment_is_scheduled_onto_a_kwok_node_and_becomes_available(
    scenario: Scenario,
) -> None:
    node = scenario.add_node(make_nodes("h100", prefix="dep")[0])
    namespace = scenario.namespace()
    labels = {"app": "engine"}
    template = pod("unused", gpus=4, nodeSelector={"kubernetes.io/hostname": node})
    template["metadata"] = {"labels": labels}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    scenario.apps.create_namespaced_deployment(
        namespace, {"metadata": {"name": "engine"}, "spec": spec}
    )
    scenario.wait_until(
        lambda: (
            scenario.apps.read_namespaced_deployment("engine", namespace).status.ready_replicas == 2
        ),
        15,
        "both replicas",
    )
    pods = scenario.core.list_namespaced_pod(namespace).items
    assert [one.spec.node_name for one in pods] == [node, node]


def test_a_third_pod_of_four_gpus_finds_no_room_on_a_node_of_eight(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("h100", prefix="full")[0])
    namespace = run_pod(scenario, node, gpus=8)
    scenario.core.create_namespaced_pod(
        namespace, pod("more", nodeSelector={"kubernetes.io/hostname": node})
    )
    scenario.wait_until(
        lambda: any(
            one.reason == "Unschedulable"
            for one in scenario.core.read_namespaced_pod("more", namespace).status.conditions or []
        ),
        10,
        "the scheduler to say so",
    )


@pytest.mark.slow
def test_a_removed_node_loses_its_pods(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="lost")[0])
    namespace = run_pod(scenario, node)
    scenario.remove_node(node)
    # The garbage collector waits 40 s before it believes that a node is gone, and looks every 20.
    scenario.wait_until(lambda: phase(scenario, namespace, "one") == "gone", 90, "the pod to go")


@pytest.mark.slow  # test_motley.py has a silent node, too
def test_a_silent_node_becomes_unreachable_and_its_pods_stay_until_it_speaks_again(
    scenario: Scenario,
) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="silent")[0])
    namespace = run_pod(scenario, node)
    scenario.stop_heartbeats(node)
    waited_s = scenario.wait_until(
        lambda: scenario.ready_status(node) == "Unknown", 30, "the node to be Unknown"
    )
    assert waited_s > 3  # the controller found the silence; nobody wrote the condition for it
    scenario.core.delete_namespaced_pod("one", namespace)
    with pytest.raises(TimeoutError):
        scenario.wait_until(lambda: phase(scenario, namespace, "one") == "gone", 2, "nothing")
    scenario.resume_heartbeats(node)
    scenario.wait_until(lambda: scenario.is_ready(node), 20, "Ready again")
    scenario.wait_until(lambda: phase(scenario, namespace, "one") == "gone", 20, "the pod to go")


def test_a_node_set_not_ready_stays_so(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="ill")[0])
    scenario.set_not_ready(node)
    assert scenario.ready_status(node) == "False"
    with pytest.raises(TimeoutError):
        scenario.wait_until(lambda: scenario.is_ready(node), 2, "nothing")


def test_a_cordoned_or_tainted_node_takes_no_new_pod(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="cordon")[0])
    namespace = run_pod(scenario, node)
    selector = {"kubernetes.io/hostname": node}
    scenario.taint(node, "maintenance")
    scenario.cordon(node)
    scenario.core.create_namespaced_pod(namespace, pod("two", nodeSelector=selector))
    for lift in (lambda: scenario.uncordon(node), lambda: scenario.untaint(node, "maintenance")):
        with pytest.raises(TimeoutError):
            scenario.wait_until(lambda: phase(scenario, namespace, "two") == "Running", 2, "it")
        lift()
    scenario.wait_until(lambda: phase(scenario, namespace, "two") == "Running", 15, "Running")


def test_annotations_choose_how_long_a_pod_runs_and_drains(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="stage")[0])
    stage = "stage.kwok.x-k8s.io/delay"
    notes = {f"pod-complete.{stage}": "1s"}
    namespace = run_pod(scenario, node, annotations=notes)
    scenario.wait_until(lambda: phase(scenario, namespace, "one") == "Succeeded", 5, "its end")
    namespace = run_pod(scenario, node, annotations={f"pod-delete.{stage}": "3s"})
    scenario.core.delete_namespaced_pod("one", namespace)
    drained_s = scenario.wait_until(
        lambda: phase(scenario, namespace, "one") == "gone", PATIENCE_S, "the pod to go"
    )
    assert 2 < drained_s < 12


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd", "kube-scheduler", "kwok"])
def test_a_program_that_was_killed_starts_again_and_goes_on(
    scenario: Scenario, own: LocalCluster, name: str
) -> None:
    node = scenario.add_node(make_nodes("l4", prefix=f"kill-{name}")[0])
    scenario.kill_component(name)
    assert not own.is_alive(name)
    assert not own.is_up()
    scenario.restart_component(name)
    assert own.is_up()
    run_pod(scenario, node)


def test_up_revives_a_half_dead_cluster_with_what_it_held(tmp_path: Path) -> None:
    _need_binaries()
    cluster = LocalCluster(tmp_path / "state")
    try:
        cluster.up(make_nodes("l4"))
        for name in ("etcd", "kwok"):
            cluster.kill(name)
        cluster.up()
        hands = Scenario(cluster.kubeconfig, cluster)
        names = [node.metadata.name for node in hands.core.list_node().items]
        hands.close()
        assert (cluster.is_up(), names) == (True, ["l4-1"])
    finally:
        cluster.down()


def test_down_ends_every_process_and_removes_every_file_but_logs_that_were_kept(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _need_binaries()
    kept = tmp_path_factory.mktemp("kept")
    directory = tmp_path / "state"
    command = [sys.executable, "-m", "e2e.cluster"]
    state = ["--state", str(directory)]
    up = subprocess.run(
        [*command, "up", *state], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert up.stdout == f"export KUBECONFIG={directory}/kubeconfig\n"
    started = [one.process for one in LocalCluster(directory).state().components]
    assert len(started) == 5
    os.kill(started[0].pid, signal.SIGKILL)  # one is dead already: down goes on regardless
    LocalCluster(directory).keep_logs(kept)
    subprocess.run([*command, "down", *state], cwd=ROOT, capture_output=True, check=True)
    assert [one for one in started if processes.is_alive(one)] == []
    assert list(tmp_path.iterdir()) == []
    subprocess.run([*command, "down", *state], cwd=ROOT, capture_output=True, check=True)
    assert list(tmp_path.iterdir()) == []
    assert {f"{name}.log" for name in ("audit", *ORDER)} <= {path.name for path in kept.iterdir()}


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    _need_binaries()
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(ClusterError, match="not empty"):
        LocalCluster(tmp_path).up()
    assert LocalCluster(tmp_path).down() is False
    assert (tmp_path / "thesis.txt").exists()


def test_the_event_log_tells_who_wrote_what_and_the_checker_replays_it(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="log")[0])
    namespace = run_pod(scenario, node, gpus=4)
    scenario.core.delete_namespaced_pod("one", namespace)
    scenario.wait_until(
        lambda: phase(scenario, namespace, "one") == "gone", PATIENCE_S, "the pod to go"
    )
    seen = [
        (one.user, one.verb, one.subresource)
        for one in scenario.event_log()
        if (one.resource, one.namespace) == ("pods", namespace)
        # The scheduler may first write that it finds no room, while the node is new to it.
        and (one.user, one.subresource) != ("system:kube-scheduler", "status")
    ]
    assert seen == [
        ("motley-admin", "create", ""),
        ("system:kube-scheduler", "create", "binding"),
        ("kwok", "patch", "status"),
        ("motley-admin", "delete", ""),
        ("kwok", "delete", ""),
    ]
    # Other tests leave pods Pending on purpose, so the log is judged for this node's alone.
    assert [one for one in check(scenario.event_log(whole=True)) if node in one.what] == []


def test_the_checker_sees_an_overfull_node_in_a_real_log(scenario: Scenario) -> None:
    node = scenario.add_node(make_nodes("l4", prefix="over")[0])
    namespace = run_pod(scenario, node, gpus=8)
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    scenario.core.create_namespaced_pod(namespace, pod("two", affinity=affinity))
    found = [one for one in check(scenario.event_log(whole=True)) if node in one.what]
    assert [one.rule for one in found] == ["requests fit the node"]
    scenario.core.delete_namespaced_pod("two", namespace)


def test_api_faults_delay_refuse_and_cut_what_they_match(
    scenario: Scenario, own: LocalCluster
) -> None:
    proxy, kubeconfig = scenario.set_api_faults(Fault("/configmaps", status=500, times=1))
    through = Scenario(kubeconfig, own)
    read = through.core.list_namespaced_config_map
    with pytest.raises(ApiException, match="500"):
        read("default")
    assert read("default").items  # once only
    proxy.faults[:] = [Fault("/configmaps", delay_s=1.0)]
    began_s = through.wait_until(lambda: bool(read("default").items), 5, "an answer")
    assert began_s >= 1.0
    proxy.faults[:] = [Fault("/configmaps", methods=("GET",), reset=True)]
    with pytest.raises(Exception, match="(?i)connection|max retries"):
        read("default")
    assert through.core.list_node() is not None  # other paths are untouched
    through.close()


def _need_binaries() -> None:
    try:
        present = find()
    except BinariesError as error:
        pytest.skip(str(error))
    if present is None:
        pytest.skip("the control plane is not built yet: `python -m e2e.cluster up` builds it")
