"""The command line of each program, and the files they read."""

from __future__ import annotations

import base64
import secrets
import socket
import textwrap
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent

# The label that takes a node out of kwok's hands: its Lease is no longer renewed, so the node
# lifecycle controller finds it unreachable, and its pods are no longer played. A label and not
# an annotation: kwok filters annotations itself and keeps renewing the Lease of a node that
# loses one, whereas for a label selector the API server reports the node as gone.
STOPPED_LABEL = "e2e.motley.dev/heartbeats-stopped"

# A node with a kubelet of its own: kwok leaves it alone, too.
REAL_LABEL = "e2e.motley.dev/real"

LOOPBACK = "127.0.0.1"
SERVICE_NETWORK = "10.96.0.0/16"

OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORTS, TRIES = 12_000, 1000  # how many ports are looked at, and how often one is drawn

# Who each program is to the API server, so that the event log says who wrote what.
IDENTITIES = {
    "admin": ("motley-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kwok": ("kwok", "system:masters"),
    "kubelet": ("system:node:real-1", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}

# In starting order; the first two have to answer before the others start.
ORDER = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A free port for each name, none of which a connection on its way out could take.

    A program that is started anew must find its port free again: the system gives ports of its own
    range to connections, so the ports lie below that range where there is room.
    """
    found: list[int] = []
    for _ in range(TRIES):
        if len(found) == len(names):
            return dict(zip(names, found, strict=True))
        port = secrets.choice(_ports())
        if port not in found and are_free([port]):
            found.append(port)
    raise OSError(f"no free ports on {LOOPBACK} between {_ports()[0]} and {_ports()[-1]}")


def _ports() -> range:
    try:
        first = int(OUTGOING_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768  # Linux's default
    return range(max(1024, first - PORTS), first) if first > 2048 else range(32_768, 60_000)


def are_free(ports: Iterable[int]) -> bool:
    """Whether nobody listens on any of the ports."""
    for port in ports:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((LOOPBACK, port))
            except OSError:
                return False
    return True


def write_files(directory: Path) -> None:
    """Writes keys and tokens, once a state directory: they outlive a restart."""
    for folder in ("logs", "kubeconfigs", "certs"):
        (directory / folder).mkdir(exist_ok=True)
    key = directory / "sa.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(_p256_private_key())
    _add_tokens(directory / "tokens.csv")
    # kwok takes one file: the stages of nodes and pods, one after the other.
    stages = [path.read_text() for path in sorted((HERE / "stages").glob("*.yaml"))]
    (directory / "stages.yaml").write_text("---\n".join(stages))


def _add_tokens(path: Path) -> None:
    """A token for each identity that has none yet."""
    path.touch(mode=0o600)
    rows = path.read_text().splitlines()
    known = {row.split(",")[2] for row in rows}
    rows += [
        f'{secrets.token_hex(16)},{user},{name},"{groups}"'
        for name, (user, groups) in IDENTITIES.items()
        if name not in known
    ]
    path.write_text("\n".join(rows) + "\n")


def address_of(directory: Path) -> str:
    """Where the API server listens: on the bridge of a real node, else on 127.0.0.1."""
    chosen = directory / "address"
    return chosen.read_text().strip() if chosen.exists() else LOOPBACK


def _p256_private_key() -> str:
    """A P-256 private key in PEM (RFC 5915): signs the tokens of service accounts.

    Written by hand because neither openssl nor a library may be there; the public half, which
    would take arithmetic, may be left out and is.
    """
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    secret = (1 + secrets.randbelow(order - 1)).to_bytes(32, "big")
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    body = bytes.fromhex("020101") + b"\x04\x20" + secret + curve
    text = base64.encodebytes(b"\x30" + bytes([len(body)]) + body).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


def token_of(directory: Path, name: str) -> str:
    """The bearer token of one identity."""
    for row in (directory / "tokens.csv").read_text().splitlines():
        token, _, identity, _ = row.split(",", 3)
        if identity == name:
            return token
    raise KeyError(name)


def kubeconfig_text(server: str, token: str, authority: Path | None) -> str:
    """A kubeconfig for one server and one token; without an authority, for plain HTTP."""
    trust = f"\n            certificate-authority: {authority}" if authority else ""
    return textwrap.dedent(f"""\
        apiVersion: v1
        kind: Config
        current-context: motley
        clusters:
        - name: motley
          cluster:
            server: {server}{trust}
        contexts:
        - name: motley
          context: {{cluster: motley, user: motley, namespace: default}}
        users:
        - name: motley
          user:
            token: {token}
        """)


def write_kubeconfigs(directory: Path, ports: dict[str, int]) -> None:
    """Writes the kubeconfig of each identity; the admin's is the one people use."""
    server = f"https://{address_of(directory)}:{ports['kube-apiserver']}"
    for name in IDENTITIES:
        text = kubeconfig_text(
            server, token_of(directory, name), directory / "certs" / "apiserver.crt"
        )
        admin = name == "admin"
        path = directory / ("kubeconfig" if admin else f"kubeconfigs/{name}.yaml")
        path.touch(mode=0o600)
        path.write_text(text)


def argv_of(name: str, binaries: Path, directory: Path, ports: dict[str, int]) -> tuple[str, ...]:
    """The whole command line of one program."""
    flags = {
        "etcd": _etcd,
        "kube-apiserver": _apiserver,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
        "kwok": _kwok,
    }[name](directory, ports)
    return (str(binaries / name), *flags)


def _etcd(directory: Path, ports: dict[str, int]) -> list[str]:
    client = f"http://127.0.0.1:{ports['etcd']}"
    peer = f"http://127.0.0.1:{ports['etcd-peer']}"
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # the data is thrown away; waiting for the disk would only cost time
        "--log-level=warn",
    ]


_FOR_NO_NODE = (
    "--endpoint-reconciler-type=none",  # 127.0.0.1 is no address an endpoint may have
)
_FOR_REAL_NODE = (
    "--kubelet-preferred-address-types=InternalIP",
    # Policies that change what is written: they give the node the cores that its shape has.
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
)


def _apiserver(directory: Path, ports: dict[str, int]) -> list[str]:
    address = address_of(directory)
    return [
        *(_FOR_REAL_NODE if address != LOOPBACK else _FOR_NO_NODE),
        f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={ports['kube-apiserver']}",
        f"--cert-dir={directory / 'certs'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--admission-control-config-file={HERE / 'admission.yaml'}",
        f"--service-account-key-file={directory / 'sa.key'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--api-audiences=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allow-privileged=true",
        f"--audit-policy-file={HERE / 'audit-policy.yaml'}",
        f"--audit-log-path={directory / 'audit.log'}",
        "--audit-log-maxsize=100000",  # MB: one file, never rotated, is the event log
        "--profiling=false",
    ]


def _controller_manager(directory: Path, ports: dict[str, int]) -> list[str]:
    del ports
    return [
        f"--kubeconfig={directory / 'kubeconfigs/kube-controller-manager.yaml'}",
        f"--service-account-private-key-file={directory / 'sa.key'}",
        f"--root-ca-file={directory / 'certs/apiserver.crt'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        # A silent node is NotReady after 16 s, not 40; kwok renews its Lease every 10 s.
        "--node-monitor-grace-period=16s",
        "--node-monitor-period=1s",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--profiling=false",
    ]


def _scheduler(directory: Path, ports: dict[str, int]) -> list[str]:
    del ports
    return [
        f"--kubeconfig={directory / 'kubeconfigs/kube-scheduler.yaml'}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--profiling=false",
    ]


def _kwok(directory: Path, ports: dict[str, int]) -> list[str]:
    del ports
    return [
        f"--kubeconfig={directory / 'kubeconfigs/kwok.yaml'}",
        f"--manage-nodes-with-label-selector=!{STOPPED_LABEL},!{REAL_LABEL}",
        f"--config={directory / 'stages.yaml'}",
        "--node-lease-duration-seconds=40",
        "--node-ip=127.0.0.1",
    ]
