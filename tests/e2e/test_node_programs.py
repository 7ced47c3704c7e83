"""What the real node's own programs say: device plugin messages, DNS packets, configuration."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster import names, node_needs
from e2e.cluster.device_plugin import (
    allocate_response,
    device_list,
    field,
    fields,
    register_request,
)
from e2e.cluster.node_files import ADDRESS, NETWORK, NodeFiles, capacity_policy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

TEXT, MESSAGE = 9, 11


def protobuf() -> dict[str, Any]:
    """The messages of the device plugin API, made by protobuf itself from its field numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    wanted = {
        "RegisterRequest": [("version", 1, ""), ("endpoint", 2, ""), ("resource_name", 3, "")],
        "Device": [("ID", 1, ""), ("health", 2, "")],
        "ListAndWatchResponse": [("devices", 1, "Device")],
        "ContainerAllocateRequest": [("devices_ids", 1, "*")],
        "AllocateRequest": [("container_requests", 1, "ContainerAllocateRequest")],
        "Env": [("key", 1, ""), ("value", 2, "")],
        "ContainerAllocateResponse": [("envs", 1, "Env")],
        "AllocateResponse": [("container_responses", 1, "ContainerAllocateResponse")],
    }
    for name, described in wanted.items():
        message = file.message_type.add(name=name)
        for label, number, kind in described:
            one = message.field.add(name=label, number=number)
            one.type, one.label = (TEXT, 3 if kind else 1) if kind in ("", "*") else (MESSAGE, 3)
            if one.type == MESSAGE:
                one.type_name = f".v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}"))
        for name in wanted
    }


API = protobuf()
WORDS = st.text(st.characters(codec="utf-8"), max_size=200)


@given(WORDS, WORDS)
def test_a_registration_is_written_as_protobuf_writes_it(endpoint: str, resource: str) -> None:
    read = API["RegisterRequest"].FromString(register_request(endpoint, resource))
    assert (read.version, read.endpoint, read.resource_name) == ("v1beta1", endpoint, resource)


@given(st.lists(WORDS, max_size=5))
def test_devices_are_listed_as_protobuf_lists_them(devices: list[str]) -> None:
    read = API["ListAndWatchResponse"].FromString(device_list(devices))
    assert [(one.ID, one.health) for one in read.devices] == [(d, "Healthy") for d in devices]


@given(st.lists(st.lists(WORDS, max_size=4), max_size=4))
def test_each_container_is_told_its_own_devices(wanted: list[list[str]]) -> None:
    request = API["AllocateRequest"]()
    for one in wanted:
        request.container_requests.add(devices_ids=one)
    read = API["AllocateResponse"].FromString(allocate_response(request.SerializeToString()))
    told = [{e.key: e.value for e in one.envs} for one in read.container_responses]
    assert told == [{"NVIDIA_VISIBLE_DEVICES": ",".join(one)} for one in wanted]


@given(st.binary(max_size=60))
def test_reading_garbage_ends_with_fields_or_an_error(data: bytes) -> None:
    try:
        assert all(len(content) <= len(data) for _, content in fields(data))
    except ValueError:
        pass
    assert list(fields(field(3, data))) == [(3, data)]


def packet(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_a_question_is_read_and_its_answer_carries_the_addresses() -> None:
    asked = packet("Engine-0.main.team.svc.cluster.local")
    name, kind, end = names.question(asked)
    assert (name, kind, end) == ("engine-0.main.team.svc.cluster.local", 1, len(asked))
    told = names.answer(asked, end, ["10.0.0.1", "10.0.0.2"], 0)
    assert told[:2] == asked[:2] and told[3] & 15 == 0
    assert struct.unpack_from("!HHHH", told, 4) == (1, 2, 0, 0)
    assert told.endswith(socket.inet_aton("10.0.0.2"))
    assert names.answer(asked, end, [], 3)[3] & 15 == 3


@given(st.binary(max_size=80))
def test_a_packet_that_is_no_question_is_refused(data: bytes) -> None:
    try:
        name, _, end = names.question(data)
    except (ValueError, UnicodeDecodeError):
        return
    assert 17 <= end <= len(data) and len(name) <= len(data)


class FakeApi:
    """Answers two questions about Services and one about EndpointSlices."""

    def request(self, method: str, path: str) -> tuple[int, str]:
        assert method == "GET"
        if path.endswith("/services/plain"):
            return 200, '{"spec": {"clusterIP": "10.96.0.7"}}'
        if path.endswith("/services/main"):
            return 200, '{"spec": {"clusterIP": "None"}}'
        if "/endpointslices" in path:
            return 200, (
                '{"items": [{"endpoints": ['
                '{"hostname": "a", "addresses": ["10.1.0.1"], "conditions": {"ready": true}},'
                '{"hostname": "b", "addresses": ["10.1.0.2"], "conditions": {"ready": false}}]}]}'
            )
        return 404, "{}"


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("plain.team", ["10.96.0.7"]),
        ("a.plain.team", None),
        ("main.team", ["10.1.0.1"]),
        ("a.main.team", ["10.1.0.1"]),
        ("b.main.team", None),
        ("other.team", None),
        ("team", None),
        ("a.b.c.team", None),
    ],
)
def test_names_of_services_and_of_ready_pods_below_headless_ones_are_known(
    name: str, addresses: list[str] | None
) -> None:
    client: Any = FakeApi()
    assert names.addresses_of(f"{name}.svc.cluster.local", client) == addresses


def test_names_of_other_domains_are_unknown_without_a_question() -> None:
    client: Any = None
    assert names.addresses_of("example.org", client) is None


def test_all_that_a_node_keeps_lies_below_its_state_directory(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    ports = {"kubelet": 1, "kube-proxy-health": 2, "kube-proxy-metrics": 3}
    files.write(ports)
    assert files.cgroup != NodeFiles(tmp_path / "other").cgroup
    text = (files.folder / "containerd.toml").read_text()
    kept = [line.split('"')[1] for line in text.splitlines() if line.startswith(("root", "state"))]
    assert len(kept) == 2 and all(one.startswith(f"{files.folder}/") for one in kept)
    labels = dict(
        pair.split("=")
        for flag in files.argv("kubelet", Path("/bin"), ports)
        if flag.startswith("--node-labels=")
        for pair in flag.removeprefix("--node-labels=").split(",")
    )
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert not any(key.startswith("kubernetes.io/") for key in labels), "not a kubelet's to set"
    assert ADDRESS.rpartition(".")[0] == NETWORK.rpartition(".")[0]


def test_the_policy_of_capacity_speaks_of_this_node_alone(tmp_path: Path) -> None:
    policy, binding = capacity_policy(NodeFiles(tmp_path))
    expressions = [one["expression"] for one in policy["spec"]["matchConditions"]]
    assert "object.metadata.name == 'real-1'" in expressions
    (mutation,) = policy["spec"]["mutations"]
    assert mutation["jsonPatch"]["expression"].count("JSONPatch{") == 4
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]


def test_where_a_program_lacks_the_reason_names_it_and_the_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_needs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(node_needs.sys, "platform", "linux")
    found = node_needs.shutil.which
    monkeypatch.setattr(
        node_needs.shutil, "which", lambda name: None if name == "runc" else found(name) or name
    )
    assert "runc" in node_needs.missing()
    assert "apt-get install containerd" in node_needs.missing()
    monkeypatch.setattr(node_needs.os, "geteuid", lambda: 1000)
    assert node_needs.missing() == "a real node takes Linux and root"


def test_what_the_kernel_keeps_from_a_root_in_a_container_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system = node_needs.node_system
    monkeypatch.setattr(system, "CGROUPS", tmp_path)
    assert "no cgroup v1 hierarchies cpu, " in node_needs._refused()
    for name in system.HIERARCHIES:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(system, "capabilities", lambda: 1 << 12 | 1 << 18)
    assert node_needs._refused() == "a real node lacks the capabilities CAP_SYS_ADMIN"
    monkeypatch.setattr(system, "capabilities", lambda: (1 << 40) - 1)
    assert node_needs._refused() == ""


def test_a_machine_holds_one_real_node_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_needs, "OWNER", tmp_path / "owner")
    monkeypatch.setattr(node_needs.node_system, "kube_chains", lambda: ["iptables nat KUBE-X"])
    assert "not ours" in node_needs.taken(tmp_path)
    (tmp_path / "owner").write_text(str(tmp_path / "first"))
    assert node_needs.owner() is None, "the folder is gone, and with it the node"
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "node.json").write_text("{}")
    assert node_needs.taken(tmp_path / "first") == ""
    assert f"down --state {tmp_path / 'first'}" in node_needs.taken(tmp_path / "second")
    assert "too long a path" in node_needs.taken(Path("/", "x" * 90))
