"""How to reach and convince an API server: a kubeconfig, or the pod's own service account.

Order: an explicit kubeconfig, $KUBECONFIG, the pod's service account, ~/.kube/config. Loading
again gives fresh tokens: service account tokens rotate on disk, exec plugins print new ones.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from motley_operator.errors import OperatorError

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXEC_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """One server and who we are to it; data are PEM bytes."""

    server: str
    ca_data: bytes | None = None
    insecure: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None
    token: str | None = None
    certificate_data: bytes | None = None
    key_data: bytes | None = None
    username: str | None = None
    password: str | None = None

    def headers(self) -> dict[str, str]:
        """The Authorization header, where there is one."""
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username and self.password:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context; None for a plain http server."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca_data.decode() if self.ca_data else None)
        # Kubernetes' self-signed certificates often lack the key usage that Python 3.13 asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_data and self.key_data:
            # The ssl module reads certificates from files only.
            with tempfile.TemporaryDirectory() as folder:
                certificate, key = Path(folder, "certificate"), Path(folder, "key")
                key.touch(mode=0o600)
                certificate.write_bytes(self.certificate_data)
                key.write_bytes(self.key_data)
                context.load_cert_chain(certificate, key)
        return context


def load_credentials(
    kubeconfig: str | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Credentials:
    """Credentials of the first source that exists.

    Raises: OperatorError that names the source and what is missing in it.
    """
    paths = kubeconfig or environ.get("KUBECONFIG") or ""
    if not paths and not context and environ.get("KUBERNETES_SERVICE_HOST"):
        return _in_cluster(environ)
    if not paths:
        paths = str(Path.home() / ".kube" / "config")
    config = _merged([Path(p).expanduser() for p in paths.split(os.pathsep) if p])
    return _of_context(config, context or config.get("current-context") or "", paths)


def _in_cluster(environ: Mapping[str, str]) -> Credentials:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    try:
        token = (_SERVICE_ACCOUNT / "token").read_text().strip()
        ca_data = (_SERVICE_ACCOUNT / "ca.crt").read_bytes()
    except OSError as error:
        raise OperatorError(
            f"in-cluster credentials: {error}; mount the service account"
        ) from error
    return Credentials(server=f"https://{host}:{port}", ca_data=ca_data, token=token)


def _merged(paths: list[Path]) -> dict[str, Any]:
    """One kubeconfig of several files; the first to name something wins, as kubectl has it."""
    merged: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
    found = False
    for path in paths:
        try:
            document = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            continue
        except (OSError, yaml.YAMLError) as error:
            raise OperatorError(f"kubeconfig {path}: {error}") from error
        found = True
        for part in ("clusters", "users", "contexts"):
            for entry in document.get(part) or []:
                merged[part].append({**entry, "folder": path.parent})
        merged.setdefault("current-context", document.get("current-context"))
    if not found:
        names = ", ".join(map(str, paths))
        raise OperatorError(f"no kubeconfig at {names}; give --kubeconfig or set KUBECONFIG")
    return merged


def _entry(config: Mapping[str, Any], part: str, name: str, paths: str) -> tuple[Any, Path]:
    for entry in config[part]:
        if entry.get("name") == name:
            return entry.get(part[:-1]) or {}, entry["folder"]
    known = ", ".join(sorted(str(e.get("name")) for e in config[part])) or "none"
    raise OperatorError(f"kubeconfig {paths}: no {part[:-1]} {name!r}; it has {known}")


def _of_context(config: Mapping[str, Any], context: str, paths: str) -> Credentials:
    chosen, _ = _entry(config, "contexts", context, paths)
    cluster, cluster_folder = _entry(config, "clusters", chosen.get("cluster", ""), paths)
    user: dict[str, Any] = {}
    folder = cluster_folder
    if chosen.get("user"):
        user, folder = _entry(config, "users", chosen["user"], paths)
    if not cluster.get("server"):
        raise OperatorError(f"kubeconfig {paths}: cluster {chosen.get('cluster')!r} has no server")
    if "exec" in user:
        user = {**user, **_run_plugin(user["exec"], folder)}
    token = user.get("token")
    if user.get("tokenFile"):
        token = (folder / user["tokenFile"]).read_text().strip()
    return Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca_data=_pem(cluster, "certificate-authority", cluster_folder),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name"),
        proxy_url=cluster.get("proxy-url"),
        token=token,
        certificate_data=_pem(user, "client-certificate", folder),
        key_data=_pem(user, "client-key", folder),
        username=user.get("username"),
        password=user.get("password"),
    )


def _pem(entry: Mapping[str, Any], field: str, folder: Path) -> bytes | None:
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"])
    if entry.get(field):
        return Path(folder, entry[field]).read_bytes()
    return None


def _run_plugin(plugin: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a client-go credential plugin prints, as fields of a kubeconfig user."""
    api_version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    wanted = {"apiVersion": api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = dict(os.environ, KUBERNETES_EXEC_INFO=json.dumps(wanted))
    environ.update({e["name"]: e["value"] for e in plugin.get("env") or []})
    command = [plugin["command"], *(plugin.get("args") or [])]
    if os.sep in command[0]:
        command[0] = str(folder / command[0])
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, check=True, timeout=_EXEC_TIMEOUT_S
        )
        status = json.loads(done.stdout).get("status") or {}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise OperatorError(f"credential plugin {command[0]}: {error}") from error
    encoded = {
        f"{ours}-data": base64.b64encode(status[theirs].encode()).decode()
        for ours, theirs in (
            ("client-certificate", "clientCertificateData"),
            ("client-key", "clientKeyData"),
        )
        if status.get(theirs)
    }
    return {"token": status.get("token"), **encoded}
