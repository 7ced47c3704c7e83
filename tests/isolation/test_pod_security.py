"""Pod Security Standards, written out: operator and gateways pass `restricted`, engines `baseline`.

The controls are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/ that
these pods could break; what a pod here never sets is refused where it is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.isolation.pods import engine_pods, gateway_pods, operator_pod

Spec = dict[str, Any]
SAFE_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
PROFILES = ("RuntimeDefault", "Localhost")


def containers(spec: Spec) -> list[Spec]:
    """Containers of every sort."""
    return [c for kind in ("initContainers", "containers") for c in spec.get(kind, ())]


def baseline(spec: Spec) -> Iterator[str]:
    """What `baseline` refuses."""
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(host):
            yield host
    for volume in spec.get("volumes", ()):
        if "hostPath" in volume:
            yield "hostPath"
    pod = spec.get("securityContext") or {}
    for context in (pod, *(c.get("securityContext") or {} for c in containers(spec))):
        if context.get("privileged"):
            yield "privileged"
        if (context.get("capabilities") or {}).get("add"):
            yield "capabilities.add"
        if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
            yield "seccompProfile"
        if context.get("procMount", "Default") != "Default":
            yield "procMount"
        if context.get("sysctls"):
            yield "sysctls"
    for container in containers(spec):
        if any("hostPort" in port for port in container.get("ports", ())):
            yield "hostPort"


def restricted(spec: Spec) -> Iterator[str]:
    """What `restricted` refuses."""
    yield from baseline(spec)
    pod = spec.get("securityContext") or {}
    for volume in spec.get("volumes", ()):
        if not SAFE_VOLUMES & volume.keys():
            yield "volumes"
    if pod.get("runAsUser") == 0:
        yield "runAsUser"
    for container in containers(spec):
        context = container.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if "ALL" not in (context.get("capabilities") or {}).get("drop", ()):
            yield "capabilities.drop"
        if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            yield "runAsNonRoot"
        if context.get("runAsUser") == 0:
            yield "runAsUser"
        profile = context.get("seccompProfile") or pod.get("seccompProfile") or {}
        if profile.get("type") not in PROFILES:
            yield "seccompProfile"


def test_the_operator_passes_restricted() -> None:
    assert list(restricted(operator_pod()["spec"])) == []


def test_every_gateway_passes_restricted() -> None:
    found = gateway_pods()
    assert len(found) == 2
    for pod in found:
        assert list(restricted(pod["spec"])) == []


def test_engines_pass_baseline_and_miss_restricted_by_the_user_of_their_image_alone() -> None:
    found = engine_pods()
    assert len(found) == 7
    for pod in found:
        assert list(baseline(pod["spec"])) == []
        assert set(restricted(pod["spec"])) == {"runAsNonRoot"}


def test_operator_and_gateways_write_to_no_root_file_system() -> None:
    for pod in (operator_pod(), *gateway_pods()):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_no_engine_gets_a_token_of_the_api_server_and_a_gateway_has_an_account_of_its_own() -> None:
    for pod in engine_pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod["spec"]
    accounts = [pod["spec"]["serviceAccountName"] for pod in gateway_pods()]
    assert sorted(accounts) == ["chat-gateway", "support-gateway"]


@pytest.mark.parametrize(
    ("spec", "control"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"hostPath": {"path": "/"}}]}, "hostPath"),
        ({"containers": [{"securityContext": {"privileged": True}}]}, "privileged"),
        ({"containers": [{"ports": [{"hostPort": 80}]}]}, "hostPort"),
        ({"containers": [{}]}, "runAsNonRoot"),
        ({"volumes": [{"nfs": {}}]}, "volumes"),
    ],
)
def test_these_rules_refuse_what_the_standard_refuses(spec: Spec, control: str) -> None:
    assert control in set(restricted(spec))
