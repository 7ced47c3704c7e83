"""podTemplates that ask for more than a pod may have, and such that Hypothesis draws."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

Document = dict[str, Any]


class Row(NamedTuple):
    """What is asked for, what an admin must allow for it (None: nothing helps), and by whom refused."""

    name: str
    needs: str | None
    template: Document
    baseline: bool = True  # False: Pod Security's baseline lets it pass, and Motley does not
    since: int = 30  # the minor version of Kubernetes since which baseline says so


def engine(**fields: Any) -> Document:
    """A template of the engine's container."""
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def secured(**context: Any) -> Document:
    """A template of the engine's security context."""
    return engine(securityContext=context)


def volume(**source: Any) -> Document:
    """A template with a volume."""
    return {"spec": {"volumes": [{"name": "v", **source}]}}


def whole(**context: Any) -> Document:
    """A template of the pod's security context."""
    return {"spec": {"securityContext": context}}


UNCONFINED = {"type": "Unconfined"}
TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
APPARMOR = "container.apparmor.security.beta.kubernetes.io/engine"
INIT = {"name": "i", "image": "i", "securityContext": {"privileged": True}}
ROWS = (
    Row("the node's network", "HostNetwork", {"spec": {"hostNetwork": True}}),
    Row("the node's processes", "HostPID", {"spec": {"hostPID": True}}),
    Row("the node's IPC", "HostIPC", {"spec": {"hostIPC": True}}),
    Row("the node's disk", "HostPath", volume(hostPath={"path": "/"})),
    Row("a port of the node", "HostPort", engine(ports=[{"containerPort": 1, "hostPort": 1}])),
    Row("privileges", "Privileged", secured(privileged=True, allowPrivilegeEscalation=True)),
    Row("privileges of an init container", "Privileged", {"spec": {"initContainers": [INIT]}}),
    Row("more privileges later", "Privileged", secured(allowPrivilegeEscalation=True), False),
    Row("a capability", "Capabilities", secured(capabilities={"drop": [], "add": ["NET_RAW"]})),
    Row("locked memory", "Capabilities", secured(capabilities={"add": ["IPC_LOCK"]})),
    Row("an unmasked /proc", "ProcMount", secured(procMount="Unmasked"), since=33),
    Row("no seccomp", "SecurityProfiles", secured(seccompProfile=UNCONFINED)),
    Row("no seccomp of the pod", "SecurityProfiles", whole(seccompProfile=UNCONFINED)),
    Row("no AppArmor", "SecurityProfiles", secured(appArmorProfile=UNCONFINED)),
    Row(
        "no AppArmor by annotation",
        "SecurityProfiles",
        {"metadata": {"annotations": {APPARMOR: "unconfined"}}},
    ),
    Row("an SELinux type", "SecurityProfiles", whole(seLinuxOptions={"type": "spc_t"})),
    Row("an SELinux user", "SecurityProfiles", secured(seLinuxOptions={"user": "system_u"})),
    Row("an SELinux role", "SecurityProfiles", secured(seLinuxOptions={"role": "system_r"})),
    Row("a sysctl", "Sysctls", whole(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    Row("a driver's volume", "VolumeTypes", volume(flexVolume={"driver": "a/b"}), False),
    Row("a file server", "VolumeTypes", volume(nfs={"server": "s", "path": "/"}), False),
    Row("a token", "ServiceAccountToken", {"spec": {"automountServiceAccountToken": True}}, False),
    Row(
        "an account's token",
        "ServiceAccountToken",
        {"spec": {"serviceAccountName": "a", "automountServiceAccountToken": True}},
        False,
    ),
    Row("a projected token", "ServiceAccountToken", volume(projected=TOKEN), False),
    Row("a Windows node", None, whole(windowsOptions={"hostProcess": True})),
    Row("a probe of others", None, engine(livenessProbe={"tcpSocket": {"host": "h", "port": 1}}), since=34),
    Row("a hook at others", None, engine(lifecycle={"preStop": {"httpGet": {"host": "h", "port": 1}}}), since=34),
)  # fmt: skip

HARMLESS: Document = {
    "metadata": {"annotations": {APPARMOR: "runtime/default"}},
    "spec": {
        "hostNetwork": False,
        "automountServiceAccountToken": False,
        "securityContext": {
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "container_t", "level": "s0:c1"},
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}],
        },
        "volumes": [
            {"name": "a", "emptyDir": {}},
            {"name": "b", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
        ],
        "containers": [
            {
                "name": "engine",
                "ports": [{"containerPort": 8000, "hostPort": 0}],
                "securityContext": {
                    "capabilities": {"drop": [], "add": ["NET_BIND_SERVICE"]},
                    "procMount": "Default",
                    "appArmorProfile": {"type": "RuntimeDefault"},
                },
                "livenessProbe": {"tcpSocket": {"port": 8000}},
            }
        ],
    },
}


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    """Objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


_PROFILE = some(type=st.sampled_from(("RuntimeDefault", "Localhost", "Unconfined", "other")))
_SELINUX = some(
    type=st.sampled_from(("", "container_t", "container_kvm_t", "spc_t")),
    user=st.sampled_from(("", "system_u")),
    role=st.sampled_from(("", "system_r")),
    level=st.just("s0"),
)
_SYSCTL = some(name=st.sampled_from(("net.ipv4.tcp_syncookies", "kernel.msgmax")))
_CAPABILITY = st.sampled_from(("CHOWN", "KILL", "NET_BIND_SERVICE", "IPC_LOCK", "SYS_ADMIN", "ALL"))
_FLAG = st.sampled_from((None, False, True))
_COMMON: dict[str, st.SearchStrategy[Any]] = {
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
    "seLinuxOptions": _SELINUX,
    "windowsOptions": some(hostProcess=_FLAG),
}
_CONTEXT = some(
    privileged=_FLAG,
    allowPrivilegeEscalation=_FLAG,
    procMount=st.sampled_from((None, "", "Default", "Unmasked")),
    capabilities=some(
        add=st.lists(_CAPABILITY, max_size=2), drop=st.lists(st.just("ALL"), max_size=1)
    ),
    **_COMMON,
)
_PORT = some(containerPort=st.just(8000), hostPort=st.sampled_from((None, 0, 80)))
_HANDLER = some(
    httpGet=some(port=st.just(1), host=st.sampled_from((None, "", "h"))),
    tcpSocket=some(port=st.just(1), host=st.sampled_from((None, "", "h"))),
)
_CONTAINER = st.fixed_dictionaries(
    {"name": st.sampled_from(("engine", "side"))},
    optional={
        "securityContext": _CONTEXT,
        "ports": st.lists(_PORT, max_size=2),
        "livenessProbe": _HANDLER,
        "startupProbe": _HANDLER,
        "lifecycle": some(postStart=_HANDLER, preStop=_HANDLER),
    },
)
_VOLUME = st.fixed_dictionaries(
    {"name": st.sampled_from(("v", "w"))},
    optional={
        "emptyDir": st.just({}),
        "hostPath": st.just({"path": "/"}),
        "nfs": st.just({"server": "s", "path": "/"}),
        "projected": st.sampled_from((TOKEN, {"sources": [{"configMap": {"name": "c"}}]})),
    },
)
TEMPLATES = some(
    metadata=some(annotations=some(**{APPARMOR: st.sampled_from(("runtime/default", "unconfined"))})),
    spec=some(
        hostNetwork=_FLAG,
        hostPID=_FLAG,
        hostIPC=_FLAG,
        automountServiceAccountToken=_FLAG,
        serviceAccountName=st.just("a"),
        securityContext=some(sysctls=st.lists(_SYSCTL, max_size=2), **_COMMON),
        volumes=st.lists(_VOLUME, max_size=1),
        initContainers=st.lists(_CONTAINER, max_size=1),
        containers=st.lists(_CONTAINER, max_size=1),
    ),
)  # fmt: skip
