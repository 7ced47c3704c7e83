"""Every kind of object that Motley reads or writes, and where the API server keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind and its collection."""

    name: str
    group: str  # "" is the core group
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What a manifest of this kind says as apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, or of one object in it, or of its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = [root + scope, self.plural, *filter(None, (name, subresource))]
        return "/".join(parts)


_ALL = (
    Kind("Node", "", "v1", "nodes", namespaced=False),
    Kind("Pod", "", "v1", "pods"),
    Kind("ModelCascade", "motley.dev", "v1alpha1", "modelcascades"),
    Kind("ServingPool", "motley.dev", "v1alpha1", "servingpools"),
    Kind("RLJob", "motley.dev", "v1alpha1", "rljobs"),
    Kind("Fleet", "motley.dev", "v1alpha1", "fleets", namespaced=False),
    Kind("Service", "", "v1", "services"),
    Kind("ConfigMap", "", "v1", "configmaps"),
    Kind("ServiceAccount", "", "v1", "serviceaccounts"),
    Kind("Deployment", "apps", "v1", "deployments"),
    Kind("Job", "batch", "v1", "jobs"),
    Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    Kind("Role", "rbac.authorization.k8s.io", "v1", "roles"),
    Kind("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings"),
    Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
    Kind("PriorityClass", "scheduling.k8s.io", "v1", "priorityclasses", namespaced=False),
    Kind("ResourceQuota", "", "v1", "resourcequotas"),
    Kind("LimitRange", "", "v1", "limitranges"),
    Kind("ResourceSlice", "resource.k8s.io", "v1", "resourceslices", namespaced=False),
    Kind("PodTemplate", "", "v1", "podtemplates"),
    Kind("ProvisioningRequest", "autoscaling.x-k8s.io", "v1", "provisioningrequests"),
    Kind("Event", "", "v1", "events"),
    Kind("Lease", "coordination.k8s.io", "v1", "leases"),
)

KINDS = {kind.name: kind for kind in _ALL}
# The custom resources that people write, Fleet apart.
CUSTOM = ("ModelCascade", "ServingPool", "RLJob")
# What Motley makes besides pods; found again by the label app.kubernetes.io/managed-by=motley.
OWNED = (
    "Service",
    "ConfigMap",
    "ServiceAccount",
    "Deployment",
    "Job",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
)
# Made, read and granted only where an admin asks for it (`--network-policies`).
ISOLATION = "NetworkPolicy"
PROVISIONING = ("PodTemplate", "ProvisioningRequest")  # `--provisioning-requests`
# Versions of a kind that API servers have which lack the one above: v1 is there since 1.34, v1beta2 since
# 1.33, v1beta1 since 1.32 (both off by default); before that there are only alphas, which nobody reads.
OLDER = {"ResourceSlice": ("v1beta2", "v1beta1")}
OPTIONAL = ("ProvisioningRequest",)  # of others' CRDs: without these there is nothing of them


def owned_kinds(network_policies: bool = False, provisioning: bool = False) -> tuple[str, ...]:
    """What is followed besides pods."""
    isolation = (ISOLATION,) if network_policies else ()
    return (*OWNED, *isolation, *(PROVISIONING if provisioning else ()))
