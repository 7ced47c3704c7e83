"""How this operator runs: one frozen value from flags and the environment.

Every flag `--some-thing` has the environment variable `MOTLEY_SOME_THING`; a flag given on the
command line wins. Nothing here belongs to a resource: what a person wants of a resource is in its
spec, what an admin wants of the fleet is in the Fleet.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from motley_operator.images import moved

GATEWAY_IMAGE = "ghcr.io/motley-dev/motley:0.1.0"
# How long engine pods tolerate a node that is not ready or unreachable, and how long the planner waits
# for one: earlier, a node that comes back would find its pods alive and replaced.
LOSS_TOLERATION_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """What the composition root hands to every room; times in seconds."""

    namespaces: tuple[str, ...] = ()  # resources of these only; empty: all
    resource_class: str = ""  # resources whose annotation motley.dev/class equals this
    kubeconfig: str | None = None  # None: $KUBECONFIG, ~/.kube/config, then in-cluster
    context: str | None = None
    field_manager: str = "motley"
    status_field_manager: str = "motley-status"
    gateway_image: str = GATEWAY_IMAGE
    image_registry: str = ""  # instead of the hosts of the catalog's images; empty: as they are
    image_pull_secrets: tuple[str, ...] = ()  # of all pods that are made, in their own namespaces
    gateway_otlp_endpoint: str = ""  # where gateways send their spans; empty: nowhere
    network_policies: bool = False  # one for the engines and one for the gateway of each resource
    provisioning_requests: bool = False  # ask cluster-autoscaler for nodes by its own object
    metrics_namespaces: tuple[str, ...] = ()  # whose pods may reach engines besides the gateway
    idle_window_s: float = 0.15  # the cycle waits until nothing has happened for this long ...
    max_wait_s: float = 1.0  # ... but never longer than this after the first wake-up
    resync_s: float = 60.0  # a cycle at least this often, to catch what no event told
    node_loss_seconds: float = LOSS_TOLERATION_SECONDS  # after Ready has become another than True
    time_limit_s: float = 1.2  # of one solve; the incumbent at the limit is a valid plan
    first_time_limit_s: float = 8.0  # of a solve while nothing runs: its plan is kept for long
    relative_gap: float = 1e-3
    latency_tiers: bool = False  # of every cascade with an end-to-end target, not only where needed
    pairs_phases: bool = False  # plans of disaggregation: Auto may put prefill and decode apart
    stuck_after_s: float = 120.0  # a cycle that takes longer fails the liveness probe
    stale_after_s: float = 30.0  # no decision on a view that could not be refreshed for so long
    create_concurrency: int = 16
    leader_election: bool = False  # several operators, one of which plans
    lease: str = (
        "motley"  # "NAME" or "NAMESPACE/NAME" of the Lease that the leader of a class holds
    )
    metrics_port: int = 9090  # 0: no metrics
    health_port: int = 8081  # /healthz and /readyz; 0: neither
    log_format: str = "json"  # json | text
    log_level: str = "info"
    once: bool = False  # one cycle, then the end

    @property
    def clusterwide(self) -> bool:
        """True when resources of every namespace are planned."""
        return not self.namespaces


_HELP = {
    "namespace": "plan resources of this namespace only (repeat for several; default: all)",
    "resource-class": "plan only resources annotated motley.dev/class=CLASS (default: those without)",
    "kubeconfig": "path of a kubeconfig (default: $KUBECONFIG, ~/.kube/config, then in-cluster)",
    "context": "context of the kubeconfig (default: its current one)",
    "gateway-image": "image of the gateway pods",
    "image-registry": "registry, with a path or without, that the catalog's images and the default gateway image are taken from",
    "image-pull-secrets": "Secrets, by commas, that gateways, engines and weights Jobs pull their images with",
    "gateway-otlp-endpoint": "OTLP/HTTP endpoint that gateways send OpenTelemetry spans to (default: none)",
    "network-policies": "make NetworkPolicies: engines are reached by their gateway and each other only",
    "provisioning-requests": "read and make ProvisioningRequests, for shapes that ask by these",
    "pair-phases": "let plans put prefill and decode apart where disaggregation is Auto, too",
    "metrics-namespaces": "namespaces, by commas, whose pods may reach engines then, to scrape them",
    "idle-window": "seconds without events before a cycle starts",
    "max-wait": "the longest a cycle waits for quiet, in seconds",
    "resync": "seconds between cycles when nothing happens",
    "node-loss-seconds": "seconds a node may be not ready before it counts as lost (default: 5, which engine pods tolerate)",
    "time-limit": "seconds one solve may take",
    "first-time-limit": "seconds a solve may take while nothing runs yet",
    "leader-elect": "run several operators of which one plans and writes, chosen by a Lease",
    "lease": "NAME or NAMESPACE/NAME of that Lease (default: motley, or motley-CLASS, in the operator's namespace)",
    "metrics-port": "port of Prometheus metrics, 0 for none",
    "health-port": "port of the probes (/healthz: alive, /readyz: ready), 0 for none",
    "log-format": "json or text",
    "log-level": "debug, info, warning or error",
    "once": "run one cycle, wait until it is applied, and end",
}


def names(text: str) -> tuple[str, ...]:
    """Names divided by commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def registry(text: str) -> str:
    """A registry's host, with a port and a path if it has them, such as mirror.example:5000/hub.

    Raises: ValueError where it is none: with a scheme, or without a dot or port.
    """
    if text and not _REGISTRY.fullmatch(text):
        raise ValueError(text)
    return text.rstrip("/")


# flag -> (field, type)
_FLAGS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("resource-class", "resource_class", str),
    ("kubeconfig", "kubeconfig", str),
    ("context", "context", str),
    ("gateway-image", "gateway_image", str),
    ("image-registry", "image_registry", registry),
    ("image-pull-secrets", "image_pull_secrets", names),
    ("gateway-otlp-endpoint", "gateway_otlp_endpoint", str),
    ("metrics-namespaces", "metrics_namespaces", names),
    ("idle-window", "idle_window_s", float),
    ("max-wait", "max_wait_s", float),
    ("resync", "resync_s", float),
    ("node-loss-seconds", "node_loss_seconds", float),
    ("time-limit", "time_limit_s", float),
    ("first-time-limit", "first_time_limit_s", float),
    ("lease", "lease", str),
    ("metrics-port", "metrics_port", int),
    ("health-port", "health_port", int),
    ("log-format", "log_format", str),
    ("log-level", "log_level", str),
)
_CHOICES = {"log-format": ("json", "text"), "log-level": ("debug", "info", "warning", "error")}
_SWITCHES = {
    "leader-elect": "leader_election",
    "network-policies": "network_policies",
    "provisioning-requests": "provisioning_requests",
    "pair-phases": "pairs_phases",
}
_NAME = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
_REGISTRY = re.compile(
    r"([a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?|[a-z0-9-]+:\d+|localhost)(/[a-z0-9._-]+)*/?"
)
_LEASE = re.compile(rf"({_NAME}/)?{_NAME}")
_ALIASES = {"resource-class": ("--class",)}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the operator's flags; a flag that is not given leaves no trace in the namespace."""
    parser.add_argument(
        "-n",
        "--namespace",
        dest="namespaces",
        action="append",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help=_HELP["namespace"],
    )
    for flag, name, kind in _FLAGS:
        parser.add_argument(
            f"--{flag}",
            *_ALIASES.get(flag, ()),
            dest=name,
            type=kind,
            choices=_CHOICES.get(flag),
            default=argparse.SUPPRESS,
            help=_HELP[flag],
        )
    for flag, name in _SWITCHES.items():
        parser.add_argument(
            f"--{flag}",
            dest=name,
            action="store_true",
            default=argparse.SUPPRESS,
            help=_HELP[flag],
        )
    parser.add_argument(
        "--once", action="store_true", default=argparse.SUPPRESS, help=_HELP["once"]
    )


def from_args(args: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Settings of a command line; what is not given there comes from MOTLEY_* variables.

    Raises: ValueError where a variable is not of its flag's type or range.
    """
    values: dict[str, Any] = {}
    for flag, name, kind in _FLAGS:
        variable = "MOTLEY_" + flag.upper().replace("-", "_")
        if name in args:
            values[name] = getattr(args, name)
        elif environ.get(variable):
            values[name] = _read(variable, environ[variable], kind, _CHOICES.get(flag))
    if "namespaces" in args:
        values["namespaces"] = tuple(dict.fromkeys(args.namespaces))
    elif environ.get("MOTLEY_NAMESPACE"):
        values["namespaces"] = names(environ["MOTLEY_NAMESPACE"])
    values["once"] = bool(getattr(args, "once", False))
    for flag, name in _SWITCHES.items():
        said = environ.get("MOTLEY_" + flag.upper().replace("-", "_"), "")
        values[name] = bool(getattr(args, name, said.casefold() in ("1", "true")))
    if values.get("resource_class") and "lease" not in values:
        # Operators of two classes do not stand by for each other.
        values["lease"] = f"motley-{values['resource_class']}"
    if values.get("image_registry") and "gateway_image" not in values:
        values["gateway_image"] = moved(GATEWAY_IMAGE, values["image_registry"])
    for name, value in values.items():
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{name}: {value} is negative; give zero or more")
    if values["leader_election"] and not _LEASE.fullmatch(values.get("lease", "motley")):
        raise ValueError(
            f"lease: {values['lease']!r} is no name of an object; give --lease NAME or NAMESPACE/NAME"
        )
    return Settings(**values)


def _read(
    variable: str, text: str, kind: Callable[[str], Any], choices: tuple[str, ...] | None
) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        raise ValueError(
            f"{variable}: {text!r} is not a {getattr(kind, '__name__', kind)}"
        ) from error
    if choices and value not in choices:
        raise ValueError(f"{variable}: {text!r} is not one of {', '.join(choices)}")
    return value
