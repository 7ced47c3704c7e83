"""The gateway's process: listens, follows the routing, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.config import Config

from motley_runtime.gateway.app import Gateway
from motley_runtime.gateway.logs import configure
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.protocol import bounded_protocol
from motley_runtime.gateway.routing_configmap import ApiServer, follow_configmap
from motley_runtime.gateway.routing_file import follow_file
from motley_runtime.gateway.wake_configmap import WakeConfigMap

log = logging.getLogger("motley.gateway")

_BACKLOG = 2048
_GC_OBJECTS = 50_000  # made and not freed before the youngest are looked at; Python's own is 700


def serve(settings: GatewaySettings) -> int:
    """Runs a gateway until SIGTERM or SIGINT; 0 after a drain, 2 where it could not start."""
    configure(settings.log_format)
    try:
        gateway = Gateway(settings)
        listener = _listen(settings)
        following = routing_source(gateway)
    except (OSError, RuntimeError) as error:
        log.error("gateway not started", extra={"fields": {"reason": str(error)}})
        return 2
    address = listener.getsockname()
    log.info("listening", extra={"fields": {"host": address[0], "port": address[1]}})
    config = uvicorn_config(gateway)
    _spare_the_collector()
    factory = config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(gateway, config, listener, following))
    return 0


async def run(
    gateway: Gateway,
    config: Config,
    listener: socket.socket,
    following: Coroutine[Any, Any, None],
) -> None:
    """Serves on a socket until a signal has drained the gateway."""
    server = GatewayServer(gateway, config)
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, server.drain)
    async with serving(server, following):
        await server.serve_on(listener)
    log.info("stopped")


@asynccontextmanager
async def serving(
    server: GatewayServer, following: Coroutine[Any, Any, None]
) -> AsyncIterator[None]:
    """Follows the routing and holds the engines' connections while it is entered."""
    async with server.gateway.running():
        task = asyncio.create_task(following)
        task.add_done_callback(_report)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


class GatewayServer(uvicorn.Server):
    """uvicorn, with a drain in two steps: first not ready, then closed."""

    def __init__(self, gateway: Gateway, config: Config) -> None:
        super().__init__(config)
        self.gateway = gateway
        self._closing: asyncio.TimerHandle | None = None

    async def serve_on(self, listener: socket.socket) -> None:
        """Serves until `drain` has run its course; installs no signal handlers."""
        await self._serve(sockets=[listener])

    def drain(self) -> None:
        """Stops being ready now and accepting after the settle time; a second call skips it."""
        if self._closing is not None:
            self.should_exit = True
            return
        settings = self.gateway.settings
        self.gateway.begin_drain()
        log.info("draining", extra={"fields": {"in_flight": self.gateway.in_flight}})
        self._closing = asyncio.get_running_loop().call_later(settings.settle_s, self._close)

    def _close(self) -> None:
        self.should_exit = True


def uvicorn_config(gateway: Gateway) -> Config:
    """How uvicorn runs a gateway."""
    limits = gateway.settings.limits
    return Config(
        gateway,
        http=bounded_protocol(limits),
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nothing here asks for the client's address
        log_config=None,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(gateway.settings.drain_s)),
    )


def routing_source(gateway: Gateway) -> Coroutine[Any, Any, None]:
    """The endless job that keeps the gateway's routing up to date. Raises: RuntimeError."""
    settings = gateway.settings
    if settings.routing_configmap is not None:
        namespace, name = settings.routing_configmap
        api_server = ApiServer.in_cluster()
        gateway.waking.tell = WakeConfigMap(api_server).tell
        return follow_configmap(api_server, namespace, name, gateway.live)
    if settings.routing_file is None:
        raise RuntimeError("a routing file or ConfigMap must be given")
    return follow_file(settings.routing_file, gateway.live)


def _spare_the_collector() -> None:
    """Leaves what was made at the start out of garbage collections, and makes those rarer.

    A request leaves no cycles behind, so that frequent collections find nothing and cost a sixth
    of it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 20, 20)


def _listen(settings: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("routing is no longer followed", exc_info=task.exception())
