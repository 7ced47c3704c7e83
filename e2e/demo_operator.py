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
_RBAC = "rbac.authorization.k8s.io"
_RBAC_V1 = f"{_RBAC}/v1"
TOKEN_SECONDS = 24 * 3600  # a kept demo goes on for a day


def install_rbac(
    api: Api,
    account: str = ACCOUNT,
    namespaces: tuple[str, ...] = (),
    files: Path = CHART_FILES,
) -> None:
    """Applies the rules of the chart, or of another release's `files`, bound to a service account.

    What it may do where it plans is bound in these namespaces; in the whole cluster if there are none.
    """
    install_account(api, account, files)
    grant(api, "motley", "rules-cluster.yaml", account, files=files)
    if namespaces:
        grant(api, "motley-namespaced", "rules-namespaced.yaml", account, files=files)
    grant(api, "motley-namespace", "rules-namespace.yaml", account, namespaces, files)


def install_account(api: Api, account: str = ACCOUNT, files: Path = CHART_FILES) -> None:
    """A service account that may take part in an election in its own namespace, and nothing else."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    metadata = {"name": account, "namespace": NAMESPACE}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    _install_roles(api, account, files)


def grant(
    api: Api,
    name: str,
    file: str,
    account: str = ACCOUNT,
    namespaces: tuple[str, ...] = (),
    files: Path = CHART_FILES,
) -> None:
    """Binds rules of the chart to an operator's service account, in namespaces or everywhere."""
    rules = yaml.safe_load((files / file).read_text())
    api.apply(
        {"apiVersion": _RBAC_V1, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    )
    for namespace in namespaces or ("",):
        kind = "RoleBinding" if namespace else "ClusterRoleBinding"
        metadata = {"name": binding_name(name, account)}
        metadata |= {"namespace": namespace} if namespace else {}
        api.apply(_binding(kind, metadata, "ClusterRole", name, account))


def binding_name(role: str, account: str) -> str:
    """The name of a role's binding to an account."""
    return role if account == ACCOUNT else f"{role}-{account}"


def _install_roles(api: Api, account: str, files: Path) -> None:
    """What holds in one namespace: the election's in the operator's, the Fleet's events' in default."""
    for part, namespace in (("leader", NAMESPACE), ("events", "default")):
        path = files / f"rules-{part}.yaml"
        if not path.exists():  # an earlier release's, which wrote events everywhere
            continue
        metadata = {"name": f"motley-{part}", "namespace": namespace}
        rules = yaml.safe_load(path.read_text())
        api.apply({"apiVersion": _RBAC_V1, "kind": "Role", "metadata": metadata, "rules": rules})
        bound = {**metadata, "name": binding_name(metadata["name"], account)}
        api.apply(_binding("RoleBinding", bound, "Role", metadata["name"], account))


def _binding(
    kind: str, metadata: dict[str, str], role_kind: str, role: str, account: str
) -> dict[str, Any]:
    return {
        "apiVersion": _RBAC_V1,
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": role_kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }


def write_kubeconfig(api: Api, target: Path, account: str = ACCOUNT) -> None:
    """A kubeconfig with a token of an operator's service account, made by TokenRequest."""
    path = path_of("ServiceAccount", NAMESPACE, account, "token")
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
