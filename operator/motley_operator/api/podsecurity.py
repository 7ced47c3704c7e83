"""What a pod template may not ask of its node: all that Pod Security's `baseline` refuses, and a token.

Each control has a permission by which an admin lets templates through it (`Fleet.spec.podTemplates.allow`),
or none where nothing that Motley makes could need it.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, `baseline`, as the oldest
Kubernetes that is stated reads it; volumes as `restricted` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from motley_operator.api.findings import Finding, Path

PodPermission = Literal[
    "Capabilities",
    "HostIPC",
    "HostNetwork",
    "HostPath",
    "HostPID",
    "HostPort",
    "Privileged",
    "ProcMount",
    "SecurityProfiles",
    "ServiceAccountToken",
    "Sysctls",
    "VolumeTypes",
]

CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
SYSCTLS = frozenset(
    (
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_syncookies",
    )
)
VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
SELINUX_TYPES = frozenset(("", "container_t", "container_init_t", "container_kvm_t"))
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_PROFILES = ("RuntimeDefault", "Localhost")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOST_FIELDS: Mapping[str, tuple[PodPermission | None, str]] = {
    "hostNetwork": ("HostNetwork", "pods do not share the node's network: remove it"),
    "hostPID": ("HostPID", "pods do not see the node's processes: remove it"),
    "hostIPC": ("HostIPC", "pods do not share the node's IPC: remove it"),
    "hostUsers": (None, "pods do not share the node's users: remove it"),
}


class _Asked(NamedTuple):
    """Something that a template asks for and that is refused without the permission."""

    path: Path
    needs: PodPermission | None
    message: str


def security_findings(
    template: Mapping[str, Any], at: Path, allow: frozenset[str]
) -> Iterator[Finding]:
    """Each field of a template that asks for more than a pod may have; `allow` is the admin's list."""
    for path, needs, message in _all(template):
        if needs is None or needs not in allow:
            fix = f", or have an admin add {needs} to the Fleet's podTemplates.allow"
            said = f"podTemplate may not {message}{fix if needs else ''}"
            yield Finding((*at, *path), "pod template", said, "semantic", "PodTemplateRefused")


def _all(template: Mapping[str, Any]) -> Iterator[_Asked]:
    spec = _mapping(template.get("spec"))
    annotations = _mapping(_mapping(template.get("metadata")).get("annotations"))
    for name, value in annotations.items():
        if str(name).startswith(_APPARMOR) and not _is_confined(str(value)):
            said = f"run without AppArmor ({name}): remove it"
            yield _Asked(("metadata", "annotations", name), "SecurityProfiles", said)
    for name, (needs, fix) in _HOST_FIELDS.items():
        if spec.get(name) not in (None, False):
            yield _Asked(("spec", name), needs, f"set {name}: {fix}")
    if spec.get("automountServiceAccountToken") not in (None, False):
        said = "have a token of the API server: remove automountServiceAccountToken"
        yield _Asked(("spec", "automountServiceAccountToken"), "ServiceAccountToken", said)
    for i, volume in enumerate(_objects(spec.get("volumes"))):
        yield from _volume(volume, ("spec", "volumes", i))
    yield from _context(spec.get("securityContext"), ("spec", "securityContext"))
    for group in ("initContainers", "containers"):
        for i, container in enumerate(_objects(spec.get(group))):
            yield from _container(container, ("spec", group, i))


def _is_confined(profile: str) -> bool:
    return profile in ("", "runtime/default") or profile.startswith("localhost/")


def _volume(volume: Mapping[str, Any], at: Path) -> Iterator[_Asked]:
    for kind, source in volume.items():
        if kind == "hostPath":
            said = "mount the node's disk: use a PersistentVolumeClaim or emptyDir"
            yield _Asked((*at, kind), "HostPath", said)
        elif kind != "name" and kind not in VOLUMES and source is not None:
            said = f"mount a volume of type {kind}: use a PersistentVolumeClaim"
            yield _Asked((*at, kind), "VolumeTypes", said)
    for i, source in enumerate(_objects(_mapping(volume.get("projected")).get("sources"))):
        if source.get("serviceAccountToken") is not None:
            said = "have a token of the API server: remove this source"
            where = (*at, "projected", "sources", i, "serviceAccountToken")
            yield _Asked(where, "ServiceAccountToken", said)


def _container(container: Mapping[str, Any], at: Path) -> Iterator[_Asked]:
    yield from _context(container.get("securityContext"), (*at, "securityContext"))
    for i, port in enumerate(_objects(container.get("ports"))):
        if port.get("hostPort"):
            said = "take a port of the node: use the resource's gateway"
            yield _Asked((*at, "ports", i, "hostPort"), "HostPort", said)
    lifecycle = _mapping(container.get("lifecycle"))
    handlers = [((name,), container.get(name)) for name in _PROBES]
    hooks = [(("lifecycle", name), lifecycle.get(name)) for name in ("postStart", "preStop")]
    for path, handler in (*handlers, *hooks):
        for kind in ("httpGet", "tcpSocket"):
            if _mapping(_mapping(handler).get(kind)).get("host"):
                said = "have the node call another host than the pod: remove it"
                yield _Asked((*at, *path, kind, "host"), None, said)


def _context(value: Any, at: Path) -> Iterator[_Asked]:
    """A security context, of a pod or of a container."""
    context = _mapping(value)
    if context.get("privileged") not in (None, False):
        said = "ask for privileged containers: remove it"
        yield _Asked((*at, "privileged"), "Privileged", said)
    if context.get("allowPrivilegeEscalation") not in (None, False):
        said = "let a process gain privileges: remove it"
        yield _Asked((*at, "allowPrivilegeEscalation"), "Privileged", said)
    if context.get("procMount") not in (None, "", "Default"):
        said = "see the node's /proc unmasked: remove it"
        yield _Asked((*at, "procMount"), "ProcMount", said)
    if _mapping(context.get("windowsOptions")).get("hostProcess") not in (None, False):
        said = "run as a process of a Windows node: remove it"
        yield _Asked((*at, "windowsOptions", "hostProcess"), None, said)
    yield from _capabilities(context, at)
    yield from _profiles(context, at)
    for i, sysctl in enumerate(_objects(context.get("sysctls"))):
        if str(sysctl.get("name")) not in SYSCTLS:
            said = f"set the sysctl {sysctl.get('name')}: remove it"
            yield _Asked((*at, "sysctls", i), "Sysctls", said)


def _capabilities(context: Mapping[str, Any], at: Path) -> Iterator[_Asked]:
    added = _mapping(context.get("capabilities")).get("add")
    names = added if isinstance(added, list | tuple) else () if added is None else (added,)
    more = [str(name) for name in names if str(name) not in CAPABILITIES]
    if more:
        said = f"add the capability {', '.join(more)}: remove it"
        yield _Asked((*at, "capabilities", "add"), "Capabilities", said)


def _profiles(context: Mapping[str, Any], at: Path) -> Iterator[_Asked]:
    for field, what in (("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")):
        profile = context.get(field)
        if profile is not None and _mapping(profile).get("type") not in _PROFILES:
            said = f"run without {what}: set type to RuntimeDefault or Localhost, or remove it"
            yield _Asked((*at, field, "type"), "SecurityProfiles", said)
    options = _mapping(context.get("seLinuxOptions"))
    if options.get("type") not in (None, *SELINUX_TYPES):
        said = "leave the SELinux types of containers: set type to container_t, or remove it"
        yield _Asked((*at, "seLinuxOptions", "type"), "SecurityProfiles", said)
    for field in ("user", "role"):
        if options.get(field):
            said = f"choose an SELinux {field}: remove it"
            yield _Asked((*at, "seLinuxOptions", field), "SecurityProfiles", said)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; others are refused for their form."""
    if not isinstance(value, list | tuple):
        return []
    return [each if isinstance(each, Mapping) else {} for each in value]
