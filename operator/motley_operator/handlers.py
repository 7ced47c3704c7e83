"""kopf's side: handlers that mark the fleet dirty, and nothing else.

Only `on.event` handlers: they keep no state, so kopf writes no annotation and no finalizer on
anything. Nodes, pods and all that is planned on come from the store (facts/); kopf's watches of
the custom resources are a second witness: what they tell before the store knows it wakes the cycle.

kopf runs in a thread with an event loop of its own: at its end it cancels every task of its loop
that it finds, which must not be a half-applied plan; and its liveness endpoint keeps answering when
the cycle's loop does not, which is the very thing it is there to tell.
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
from motley_operator.settings import Settings

_ANSWER_S = 10.0
_WATCHED = (*CUSTOM, "Fleet")


def build_registry(
    cycle: Cycle,
    store: Store,
    login: Callable[[], Credentials],
    loop: asyncio.AbstractEventLoop,
) -> kopf.OperatorRegistry:
    """kopf's handlers, bound to one cycle and one store, which live on `loop`."""
    registry = kopf.OperatorRegistry()

    def wake(cause: str) -> None:
        loop.call_soon_threadsafe(cycle.wake, cause)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        harden(settings)

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(login())

    @kopf.on.probe(registry=registry, id="cycle")
    async def cycle_moves(**_: Any) -> str:
        await answers(loop)
        return probe(cycle)

    for name in _WATCHED:
        kind = KINDS[name]
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=name)(
            waker(name, wake, store)
        )
    return registry


def run_kopf(registry: kopf.OperatorRegistry, settings: Settings, stop: threading.Event) -> None:
    """Run kopf until `stop`; to be called in a thread of its own."""
    health = f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None
    kopf.run(
        registry=registry,
        clusterwide=settings.clusterwide,
        namespaces=settings.namespaces,
        standalone=True,
        stop_flag=stop,
        liveness_endpoint=health,
    )


def waker(kind: str, wake: Callable[[str], None], store: Store) -> Callable[..., Any]:
    """A handler that wakes the cycle for what the store has not heard of."""

    async def changed(body: Mapping[str, Any], **_: Any) -> None:
        if store.is_behind(kind, body):
            wake(f"kopf:{kind}")

    return changed


async def answers(loop: asyncio.AbstractEventLoop) -> None:
    """Return once the cycle's event loop has answered.

    Raises: kopf.PermanentError (HTTP 500) when it does not for `_ANSWER_S`.
    """

    async def nothing() -> None:
        return None

    asked = asyncio.run_coroutine_threadsafe(nothing(), loop)
    try:
        await asyncio.wait_for(asyncio.wrap_future(asked), _ANSWER_S)
    except TimeoutError as error:
        raise kopf.PermanentError(f"the event loop is blocked for {_ANSWER_S:.0f} s") from error


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
    settings.watching.server_timeout = 660  # whole: the API server reads no "660.0"
    settings.watching.client_timeout = 750
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
        certificate_data=c.certificate_data,
        private_key_data=c.key_data,
        proxy_url=c.proxy_url,
    )
