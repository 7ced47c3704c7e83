"""kopf's side: handlers that mark the fleet dirty, and nothing else.

Only `on.event` handlers: they keep no state, so kopf writes no annotation and no finalizer on
anything. Nodes, pods and all that is planned on come from the store (facts/); kopf's watches of
the custom resources are a second witness: what they tell before the store knows it wakes the cycle.

kopf runs in a thread with an event loop of its own: at its end it cancels every task of its loop
that it finds, which must not be a half-applied plan; and what the kubelet asks (health.py) is answered
there when the cycle's loop does not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from motley_operator.connection import CUSTOM, KINDS, Credentials
from motley_operator.cycle import Cycle
from motley_operator.facts import Store
from motley_operator.facts.silence import LONGEST_S
from motley_operator.health import Health
from motley_operator.settings import Settings

_WATCHED = (*CUSTOM, "Fleet")


def build_registry(
    cycle: Cycle,
    store: Store,
    login: Callable[[], Credentials],
    loop: asyncio.AbstractEventLoop,
    health: Health,
) -> kopf.OperatorRegistry:
    """kopf's handlers, bound to one cycle and one store, which live on `loop`."""
    registry = kopf.OperatorRegistry()

    def wake(cause: str) -> None:
        loop.call_soon_threadsafe(cycle.wake, cause)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        harden(settings)
        port = cycle.settings.health_port
        try:
            await health.start(port)
        except OSError as error:  # a start that fails for another reason is tried again, by kopf
            raise kopf.PermanentError(f"health port {port}: {error}") from error

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        await health.stop()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(login())

    for name in _WATCHED:
        kind = KINDS[name]
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=name)(
            waker(name, wake, store)
        )
    return registry


def run_kopf(registry: kopf.OperatorRegistry, settings: Settings, stop: threading.Event) -> None:
    """Run kopf until `stop`; to be called in a thread of its own."""
    kopf.run(
        registry=registry,
        clusterwide=settings.clusterwide,
        namespaces=settings.namespaces,
        standalone=True,
        stop_flag=stop,
    )


def waker(kind: str, wake: Callable[[str], None], store: Store) -> Callable[..., Any]:
    """A handler that wakes the cycle for what the store has not heard of."""

    async def changed(body: Mapping[str, Any], **_: Any) -> None:
        if store.is_behind(kind, body):
            wake(f"kopf:{kind}")

    return changed


def harden(settings: kopf.OperatorSettings) -> None:
    """kopf without its habits: no events, no peering, no silent watches, bounded workers."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.server_timeout = 1560  # whole: the API server reads no "1560.0"
    settings.watching.client_timeout = 1650
    settings.watching.connect_timeout = 10.0
    settings.watching.inactivity_timeout = LONGEST_S  # one for all of a watch, its beginning too
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
        certificate_data=c.certificate_data,
        private_key_data=c.key_data,
        proxy_url=c.proxy_url,
    )
