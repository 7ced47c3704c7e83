"""kopf's side: handlers that mark the fleet dirty, and nothing else.

Only `on.event` handlers: they keep no state, so kopf writes no annotation and no finalizer on
anything. Nodes, pods and all that is planned on come from the store (facts/); kopf's watches of
the custom resources are a second witness: what they tell before the store knows it wakes the cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from motley_operator.connection import CUSTOM, KINDS, Credentials
from motley_operator.cycle import Cycle
from motley_operator.facts import Store

_WATCHED = (*CUSTOM, "Fleet")


def build_registry(
    cycle: Cycle, store: Store, login: Callable[[], Credentials]
) -> kopf.OperatorRegistry:
    """kopf's handlers, bound to one cycle and one store."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        harden(settings)

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(login())

    @kopf.on.probe(registry=registry, id="cycle")
    async def cycle_moves(**_: Any) -> str:
        return probe(cycle)

    for name in _WATCHED:
        kind = KINDS[name]
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=name)(
            waker(name, cycle, store)
        )
    return registry


def waker(kind: str, cycle: Cycle, store: Store) -> Callable[..., Any]:
    """A handler that wakes the cycle for what the store has not heard of."""

    async def changed(body: Mapping[str, Any], **_: Any) -> None:
        if store.is_behind(kind, body):
            cycle.wake(f"kopf:{kind}")

    return changed


def probe(cycle: Cycle) -> str:
    """What the liveness endpoint says of the cycle.

    Raises: kopf.PermanentError (HTTP 500) when a cycle is stuck, so that the kubelet restarts us.
    """
    seconds = cycle.stuck_for_s()
    if seconds > cycle.settings.stuck_after_s:
        raise kopf.PermanentError(f"a cycle has been running for {seconds:.0f} s")
    return "ok"


def harden(settings: kopf.OperatorSettings) -> None:
    """kopf without its habits: no events, no peering, no silent watches, bounded workers."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.server_timeout = 330.0
    settings.watching.client_timeout = 420.0
    settings.watching.connect_timeout = 10.0
    settings.watching.inactivity_timeout = 90.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.networking.enforce_retry_after = True
    settings.queueing.worker_limit = 16
    settings.process.ultimate_exiting_timeout = 60.0


def connection_info(credentials: Credentials) -> kopf.ConnectionInfo:
    """Our credentials in kopf's words, so that both sides are the same user of the same server."""
    c = credentials
    return kopf.ConnectionInfo(
        server=c.server,
        ca_data=c.ca_data,
        insecure=c.insecure,
        token=c.token,
        username=c.username,
        password=c.password,
        certificate_data=c.certificate_data,
        private_key_data=c.key_data,
        proxy_url=c.proxy_url,
    )
