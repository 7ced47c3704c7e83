"""The operator as the demo runs it: a process with its own service account and no other rights."""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import processes
from e2e.cluster.processes import Process
from e2e.demo_api import Api, path_of

ROOT = Path(__file__).parent.parent
CHART_FILES = ROOT / "charts" / "motley" / "files"
NAMESPACE = "motley-system"
ACCOUNT = "motley"
TOKEN_SECONDS = 24 * 3600  # a kept demo goes on for a day


def install_rbac(api: Api) -> None:
    """Applies the chart's rules, bound to the operator's service account in the whole cluster."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    account = {"name": ACCOUNT, "namespace": NAMESPACE}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    grant(api, "motley", "rules-cluster.yaml")
    grant(api, "motley-namespace", "rules-namespace.yaml")
    _install_leader_role(api, account)


def grant(api: Api, name: str, file: str) -> None:
    """Binds rules of the chart to the operator's service account in the whole cluster."""
    group = "rbac.authorization.k8s.io"
    common = {"apiVersion": f"{group}/v1", "metadata": {"name": name}}
    rules = yaml.safe_load((CHART_FILES / file).read_text())
    api.apply({**common, "kind": "ClusterRole", "rules": rules})
    role = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    subjects = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]
    api.apply({**common, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": subjects})


def _install_leader_role(api: Api, account: dict[str, str]) -> None:
    """What the election needs, in the operator's namespace only."""
    group = "rbac.authorization.k8s.io"
    common = {
        "apiVersion": f"{group}/v1",
        "metadata": {"name": "motley-leader", "namespace": NAMESPACE},
    }
    rules = yaml.safe_load((CHART_FILES / "rules-leader.yaml").read_text())
    api.apply({**common, "kind": "Role", "rules": rules})
    role = {"apiGroup": group, "kind": "Role", "name": "motley-leader"}
    subjects = [{"kind": "ServiceAccount", **account}]
    api.apply({**common, "kind": "RoleBinding", "roleRef": role, "subjects": subjects})


def write_kubeconfig(api: Api, target: Path) -> None:
    """A kubeconfig with a token of the operator's service account, made by TokenRequest."""
    path = path_of("ServiceAccount", NAMESPACE, ACCOUNT, "token")
    wanted = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    token = api.request("POST", path, wanted)["status"]["token"]
    cluster: dict[str, Any] = {"server": api.server}
    if api.ca_data:
        cluster["certificate-authority-data"] = base64.b64encode(api.ca_data).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "operator",
        "clusters": [{"name": "demo", "cluster": cluster}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "operator", "context": {"cluster": "demo", "user": "operator"}}],
    }
    target.touch(mode=0o600)
    target.write_text(yaml.safe_dump(config))


def start(folder: Path, *flags: str) -> Process:
    """Starts `motley operator` on folder/operator.kubeconfig; its log is folder/operator.log."""
    argv = [
        sys.executable,
        "-m",
        "motley_operator.cli.main",
        "operator",
        f"--kubeconfig={folder / 'operator.kubeconfig'}",
        "--log-format=text",
        "--metrics-port=0",
        "--health-port=0",
        *flags,
    ]
    # Its own service account is all it gets: nothing of the person's kubeconfig.
    os.environ.pop("KUBECONFIG", None)
    process = processes.spawn(argv, folder / "operator.log")
    (folder / "operator.json").write_text(json.dumps(asdict(process)))
    return process


def stop(folder: Path) -> bool:
    """Ends the operator that `start` started, if it still runs; False if there was none."""
    record = folder / "operator.json"
    if not record.exists():
        return False
    process = Process(**json.loads(record.read_text()))
    was_alive = processes.is_alive(process)
    processes.stop(process, grace_s=5.0)
    record.unlink()
    return was_alive


def log_tail(folder: Path, lines: int = 15) -> str:
    """The end of the operator's log."""
    log = folder / "operator.log"
    text = log.read_text(errors="replace") if log.exists() else "(no log)"
    return "\n".join(text.splitlines()[-lines:])
