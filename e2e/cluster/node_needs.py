"""Whether a real node can run on this machine, and which one does.

python -m e2e.cluster.node_needs     # builds what a real node needs; 1 and why where none can be
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from e2e.cluster import binaries, image_store, node_system
from e2e.cluster.binaries import BinariesError
from e2e.cluster.node_files import CNI_PROGRAMS, NodeFiles

OWNER = Path("/run/motley-real-node")  # the state directory of this machine's one real node
COMMANDS = (
    "containerd",
    "ctr",
    "runc",
    "iptables",
    "conntrack",
    "busybox",
    "ip",
    "nsenter",
    "unshare",
)
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_CHROOT": 18, "CAP_SYS_ADMIN": 21}
SOCKET_CHARACTERS = 107
PACKAGES = "containerd runc containernetworking-plugins iptables conntrack busybox-static"


def missing() -> str:
    """Why no real node can run on this machine, in one sentence; "" where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a real node takes Linux and root"
    lacking = [name for name in COMMANDS if shutil.which(name) is None]
    if lacking or not Path(CNI_PROGRAMS, "bridge").exists():
        what = ", ".join([*lacking, *([] if Path(CNI_PROGRAMS, "bridge").exists() else ["cni"])])
        return f"a real node lacks {what}: apt-get install {PACKAGES}"
    if reason := _refused():
        return reason
    for name in ("grpc", "packaging", image_store.LLAMA_CPP):
        if find_spec(name) is None:
            return f"a real node lacks the Python package {name}: it is among those for development"
    return ""


def _refused() -> str:
    """What the kernel keeps from this process, root as it may be: in containers most of it."""
    absent = [one for one in node_system.HIERARCHIES if not (node_system.CGROUPS / one).is_dir()]
    if absent:
        return f"this machine has no cgroup v1 hierarchies {', '.join(absent)}, and v2 is not tried"
    if not os.access(node_system.CGROUPS / "memory", os.W_OK):
        return "a real node makes cgroups, and they are read-only here"
    held = node_system.capabilities()
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    return f"a real node lacks the capabilities {', '.join(lacking)}" if lacking else ""


def owner() -> Path | None:
    """The state directory of the real node that this machine has now; None if it has none."""
    try:
        found = Path(OWNER.read_text())
    except FileNotFoundError:
        return None
    return found if (found / "node.json").exists() else None


def taken(directory: Path) -> str:
    """Why no real node can be in this state directory, in one sentence; "" if it can.

    There may be another Kubernetes node, or the path is longer than a socket's may be.
    """
    other = owner()
    if len(f"{NodeFiles(directory).socket}.ttrpc") > SOCKET_CHARACTERS:
        return f"{directory} is too long a path for the sockets of a real node"
    if other not in (None, directory):
        return f"this machine has a real node already: `down --state {other}` first"
    if other is None and node_system.kube_chains():
        return "this machine's packet filter has chains of a Kubernetes node that is not ours"
    return ""


def main() -> int:
    """Builds programs and images, which are kept; 1 where no real node can run here."""
    reason = missing()
    try:
        if not reason:
            binaries.ensure(binaries.NODE_PROGRAMS)
            with image_store.locked():
                pass
    except (BinariesError, OSError) as error:
        reason = str(error)
    if reason:
        print(f"real node: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
