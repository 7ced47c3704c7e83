"""How to reach and convince an API server: a kubeconfig, or the pod's own service account.

Order: an explicit kubeconfig, $KUBECONFIG, the pod's service account, ~/.kube/config. The official
client reads them all, runs credential plugins and merges several files as kubectl does. Loading
again gives fresh tokens: service account tokens rotate on disk, plugins print new ones.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley_operator.errors import OperatorError


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

    def headers(self) -> dict[str, str]:
        """The Authorization header, where there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

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


_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace(environ: Mapping[str, str] = os.environ) -> str:
    """The namespace that this process runs in: $POD_NAMESPACE, the pod's own, motley-system."""
    if environ.get("POD_NAMESPACE"):
        return environ["POD_NAMESPACE"]
    return _NAMESPACE.read_text().strip() if _NAMESPACE.exists() else "motley-system"


def load_credentials(
    kubeconfig: str | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Credentials:
    """Credentials of the first source that exists.

    Raises: OperatorError that names the source and what is missing in it.
    """
    # Loaded here, since importing them costs more than all that an offline command does.
    import kubernetes.client
    import kubernetes.config

    paths = kubeconfig or environ.get("KUBECONFIG") or ""
    found = kubernetes.client.Configuration()
    found.api_key.clear()
    in_cluster = not paths and not context and environ.get("KUBERNETES_SERVICE_HOST")
    paths = paths or str(Path.home() / ".kube" / "config")
    source = "the pod's service account" if in_cluster else f"kubeconfig {paths}"
    if not in_cluster and not any(Path(p).expanduser().exists() for p in paths.split(os.pathsep)):
        raise OperatorError(f"no kubeconfig at {paths}; give --kubeconfig or set KUBECONFIG")
    try:
        if in_cluster:
            kubernetes.config.load_incluster_config(client_configuration=found)
        else:
            kubernetes.config.load_kube_config(paths, context, client_configuration=found)
        return _of_configuration(found)
    except Exception as error:  # of many kinds: its own, of YAML, of the file system
        raise OperatorError(f"{source}: {error}{_contexts(paths, context)}") from error


def _contexts(paths: str, context: str | None) -> str:
    """What contexts there are, for who asked for one by name."""
    if context is None:
        return ""
    import kubernetes.config

    with suppress(Exception):
        known, _ = kubernetes.config.list_kube_config_contexts(paths)
        names = sorted(entry["name"] for entry in known)
        if context not in names:
            return f"; it has the contexts {', '.join(names)}"
    return ""


def _of_configuration(found: Any) -> Credentials:
    bearer = str(found.auth_settings().get("BearerToken", {}).get("value") or "")
    return Credentials(
        server=str(found.host).rstrip("/"),
        ca_data=_bytes_of(found.ssl_ca_cert),
        insecure=not found.verify_ssl,
        tls_server_name=found.tls_server_name,
        proxy_url=found.proxy,
        # "Bearer" of a kubeconfig, "bearer" of a pod's service account.
        token=re.sub("^bearer ", "", bearer, flags=re.IGNORECASE).strip() or None,
        certificate_data=_bytes_of(found.cert_file),
        key_data=_bytes_of(found.key_file),
    )


def _bytes_of(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None
