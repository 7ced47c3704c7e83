"""What a gateway may do: read its own routing ConfigMap, and say where it holds requests."""

from __future__ import annotations

from motley_operator.domain.names import GATEWAY, gateway_name, routing_name, wake_name
from motley_operator.manifests.frame import Manifest, Owner, sealed

_RBAC = "rbac.authorization.k8s.io"


def gateway_access(owner: Owner, may_wake: bool = False) -> tuple[Manifest, ...]:
    """ServiceAccount, Role and RoleBinding of a gateway; `may_wake`: it says what it holds."""
    name = gateway_name(owner.name)
    metadata = owner.metadata(name, GATEWAY)
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [routing_name(owner.name)],
        "verbs": ["get", "list", "watch"],
    }
    word = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [wake_name(owner.name)],
        "verbs": ["patch"],
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata,
        "rules": [rule, word] if may_wake else [rule],
    }
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": owner.namespace}],
    }
    return sealed(account), sealed(role), sealed(binding)
