"""A few lines of HTTP to an API server, as whoever a kubeconfig says: all that the demo needs."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

from motley_operator.connection import load_credentials

Document = dict[str, Any]

FIELD_MANAGER = "motley-demo"
BUSY_TRIES, BUSY_S = 40, 0.25  # what a server that is busy with itself is given

# kind -> (path before the namespace, plural, namespaced)
_CORE, _RBAC = "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
_MOTLEY = "/apis/motley.dev/v1alpha1"
_KARPENTER = "/apis/karpenter.sh/v1"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
KINDS: Mapping[str, tuple[str, str, bool]] = {
    "Namespace": (_CORE, "namespaces", False),
    "Node": (_CORE, "nodes", False),
    "Pod": (_CORE, "pods", True),
    "ConfigMap": (_CORE, "configmaps", True),
    "ResourceQuota": (_CORE, "resourcequotas", True),
    "LimitRange": (_CORE, "limitranges", True),
    "Secret": (_CORE, "secrets", True),
    "ServiceAccount": (_CORE, "serviceaccounts", True),
    "PersistentVolume": (_CORE, "persistentvolumes", False),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
    "Role": (_RBAC, "roles", True),
    "RoleBinding": (_RBAC, "rolebindings", True),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "ClusterRole": (_RBAC, "clusterroles", False),
    "ClusterRoleBinding": (_RBAC, "clusterrolebindings", False),
    "ValidatingAdmissionPolicy": (_ADMISSION, "validatingadmissionpolicies", False),
    "ValidatingAdmissionPolicyBinding": (
        _ADMISSION,
        "validatingadmissionpolicybindings",
        False,
    ),
    "PriorityClass": ("/apis/scheduling.k8s.io/v1", "priorityclasses", False),
    "CustomResourceDefinition": (
        "/apis/apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        False,
    ),
    "NodePool": (_KARPENTER, "nodepools", False),
    "NodeClaim": (_KARPENTER, "nodeclaims", False),
    "KWOKNodeClass": ("/apis/karpenter.kwok.sh/v1alpha1", "kwoknodeclasses", False),
    "ModelCascade": (_MOTLEY, "modelcascades", True),
    "ServingPool": (_MOTLEY, "servingpools", True),
    "RLJob": (_MOTLEY, "rljobs", True),
    "Fleet": (_MOTLEY, "fleets", False),
}


class Refused(Exception):
    """The API server said no, in its own words."""

    def __init__(self, status: int, what: str, message: str) -> None:
        super().__init__(f"{what}: {status} {message}")
        self.status = status


def _words(text: bytes) -> str:
    """What an answer that is an error says: a Status in JSON, or, of a path unknown, plain text."""
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return text.decode(errors="replace").strip()


class Api:
    """One connection to an API server; with `user` as somebody else, if one may impersonate."""

    def __init__(self, kubeconfig: str, user: str = "") -> None:
        credentials = load_credentials(kubeconfig=kubeconfig)
        address = urlsplit(credentials.server)
        port = address.port or 443
        context = credentials.ssl_context()
        self.server = credentials.server
        self.created: list[str] = []  # paths of the objects that this connection has made
        self.ca_data = credentials.ca_data
        self._headers = credentials.headers() | ({"Impersonate-User": user} if user else {})
        self._connection: http.client.HTTPConnection
        if context is None:
            self._connection = http.client.HTTPConnection(address.hostname or "", port, timeout=20)
        else:
            self._connection = http.client.HTTPSConnection(
                address.hostname or "", port, timeout=20, context=context
            )

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Document:
        """The answer's JSON.

        Raises: Refused.
        """
        payload = None if body is None else json.dumps(body)
        status, text = self._answer(method, path, payload, content_type)
        # "storage is (re)initializing": an API server that has just started or lost its history.
        for _ in range(BUSY_TRIES):
            if status != http.HTTPStatus.TOO_MANY_REQUESTS:
                break
            time.sleep(BUSY_S)
            status, text = self._answer(method, path, payload, content_type)
        if status >= 400:
            raise Refused(status, f"{method} {path}", _words(text))
        document: Document = json.loads(text) if text else {}
        if status == http.HTTPStatus.CREATED:
            self._remember(method, path, document)
        return document

    def _answer(
        self, method: str, path: str, payload: str | None, content_type: str
    ) -> tuple[int, bytes]:
        headers = {**self._headers, "Content-Type": content_type}
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, payload, headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                self._connection.close()  # an idle connection that the server has closed
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _remember(self, method: str, path: str, document: Document) -> None:
        path = path.partition("?")[0]
        name = document.get("metadata", {}).get("name")
        if method == "PATCH":
            self.created.append(path)
        elif name and not path.endswith("/token"):
            self.created.append(f"{path}/{name}")

    def delete_created(self) -> int:
        """Deletes what this connection has made, the last first; how many there were."""
        for path in reversed(self.created):
            with suppress(Refused):  # gone already, or with its namespace
                self.request("DELETE", path)
        return len(self.created)

    def list(self, kind: str, **params: str) -> list[Document]:
        """Every object of a kind, in all namespaces."""
        query = f"?{urlencode(params)}" if params else ""
        found: list[Document] = self.request("GET", path_of(kind) + query).get("items") or []
        return found

    def get(self, kind: str, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        try:
            return self.request("GET", path_of(kind, namespace, name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def apply(self, manifest: Document) -> Document:
        """Server-side apply."""
        metadata = manifest["metadata"]
        path = path_of(manifest["kind"], metadata.get("namespace", "default"), metadata["name"])
        query = urlencode({"fieldManager": FIELD_MANAGER, "force": "true"})
        return self.request("PATCH", f"{path}?{query}", manifest, "application/apply-patch+yaml")

    def patch(self, kind: str, namespace: str, name: str, change: Document) -> Document:
        """A JSON merge patch."""
        path = path_of(kind, namespace, name)
        return self.request("PATCH", path, change, "application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str, grace_s: int | None = None) -> None:
        """Deletes one object; it may be gone already. A pod's `grace_s` is its own where none is given."""
        assert name, "without a name every object of the kind would go"
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        try:
            self.request("DELETE", path_of(kind, namespace, name) + query)
        except Refused as error:
            if error.status != 404:
                raise


def path_of(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The URL path of a collection, an object, or its subresource."""
    root, plural, namespaced = KINDS[kind]
    scope = f"/namespaces/{namespace}" if namespaced and namespace else ""
    return "/".join([root + scope, plural, *filter(None, (name, subresource))])
