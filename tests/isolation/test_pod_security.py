"""Pod Security Standards, written out: operator and gateways pass `restricted`, engines `baseline`.

The controls are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/ that
these pods could break, written apart from what the operator refuses of a podTemplate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given, settings
from tests.isolation.pods import engine_pods, gateway_pods, operator_pod
from tests.isolation.templates import HARMLESS, ROWS, TEMPLATES, Row

from motley_operator.admission.merging import with_template
from motley_operator.api.podtemplates import template_findings

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
ENGINE = engine_pods()[0]


def containers(spec: Spec) -> list[Spec]:
    """Containers of every sort."""
    return [c for kind in ("initContainers", "containers") for c in spec.get(kind, ())]


DEFAULT_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    *(f"net.ipv4.tcp_keepalive_{which}" for which in ("time", "intvl", "probes")),
    "net.ipv4.tcp_fin_timeout",
}


def baseline(pod: Spec) -> Iterator[str]:
    """What `baseline` refuses of a pod or a pod template."""
    spec = pod["spec"]
    for name, profile in (pod.get("metadata", {}).get("annotations") or {}).items():
        if "apparmor.security" in name and profile.split("/")[0] not in ("runtime", "localhost"):
            yield "appArmorProfile"
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(host):
            yield host
    if any("hostPath" in volume for volume in spec.get("volumes", ())):
        yield "hostPath"
    yield from confined(spec.get("securityContext") or {})
    for container in containers(spec):
        yield from confined(container.get("securityContext") or {})
        if any(port.get("hostPort") for port in container.get("ports", ())):
            yield "hostPort"
        hooks = container.get("lifecycle") or {}
        called = [container.get(f"{which}Probe") for which in ("liveness", "readiness", "startup")]
        for handler in (*called, hooks.get("postStart"), hooks.get("preStop")):
            for kind in ("httpGet", "tcpSocket"):
                if ((handler or {}).get(kind) or {}).get("host"):
                    yield "host"


def confined(context: Spec) -> Iterator[str]:
    """What `baseline` refuses of a security context."""
    if context.get("privileged"):
        yield "privileged"
    if set((context.get("capabilities") or {}).get("add") or ()) - DEFAULT_CAPABILITIES:
        yield "capabilities.add"
    for profile in ("seccompProfile", "appArmorProfile"):
        if (context.get(profile) or {}).get("type", "Localhost") not in PROFILES:
            yield profile
    if context.get("procMount") not in (None, "", "Default"):
        yield "procMount"
    if {sysctl["name"] for sysctl in context.get("sysctls") or () if sysctl} - SAFE_SYSCTLS:
        yield "sysctls"
    selinux = context.get("seLinuxOptions") or {}
    types = ("", "container_t", "container_init_t", "container_kvm_t")
    if selinux.get("user") or selinux.get("role") or selinux.get("type", "") not in types:
        yield "seLinuxOptions"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"


def restricted(whole: Spec) -> Iterator[str]:
    """What `restricted` refuses of a pod or a pod template."""
    yield from baseline(whole)
    spec = whole["spec"]
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
    assert list(restricted(operator_pod())) == []


def test_every_gateway_passes_restricted() -> None:
    found = gateway_pods()
    assert len(found) == 2
    for pod in found:
        assert list(restricted(pod)) == []


def test_engines_pass_baseline_and_miss_restricted_by_the_user_of_their_image_alone() -> None:
    found = engine_pods()
    assert len(found) == 7
    for pod in found:
        assert list(baseline(pod)) == []
        assert set(restricted(pod)) == {"runAsNonRoot"}


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
    assert control in set(restricted({"spec": spec}))


def judged(template: Spec, allow: frozenset[str] = frozenset()) -> list[str]:
    """What the operator says of a template."""
    return [f.message for f in template_findings(template, ("spec", "podTemplate"), allow)]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_template_that_baseline_refuses_is_refused_unless_the_admin_allows_it(row: Row) -> None:
    said = judged(row.template)
    assert said and all(": " in message for message in said)
    every = {r.needs for r in ROWS if r.needs}
    if row.needs is None:
        assert judged(row.template, frozenset(every)) == said
    else:
        assert all(f"add {row.needs} to the Fleet" in message for message in said)
        assert judged(row.template, frozenset(every - {row.needs})) == said
        assert judged(row.template, frozenset((row.needs,))) == []
    pod = with_template(ENGINE, row.template)
    assert bool(list(baseline(pod))) == row.baseline


def test_a_template_within_baseline_is_accepted() -> None:
    assert judged(HARMLESS) == []


@settings(max_examples=300, deadline=None)
@given(template=TEMPLATES)
def test_what_is_accepted_gives_pods_of_baseline_without_a_token(template: Spec) -> None:
    said = judged(template)
    event("refused" if said else "accepted")
    pod = with_template(ENGINE, template)
    if said:
        return
    assert list(baseline(pod)) == []
    assert not pod["spec"].get("automountServiceAccountToken")
    for volume in pod["spec"].get("volumes", ()):
        assert volume.keys() <= {*SAFE_VOLUMES, "name"}
        sources = volume.get("projected", {}).get("sources", ())
        assert not any("serviceAccountToken" in source for source in sources)
