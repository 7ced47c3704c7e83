"""Puts together what looks at answers beside the requests' way, for as long as a gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.labels import Labels
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.shadow import Shadow
from motley_runtime.gateway.watching import Watch

if TYPE_CHECKING:
    from motley_runtime.gateway.app import Gateway
    from motley_runtime.gateway.cascade import Cascade


@asynccontextmanager
async def observing(
    gateway: Gateway, cascade: Cascade, caller: Caller, credits: Credits
) -> AsyncIterator[None]:
    """Gives a cascade its watch and shadow, and asks canaries, while it is entered."""

    def is_busy() -> bool:
        return gateway.is_draining or gateway.share.waiting > 0 or credits.waiting > 0

    settings, metrics = gateway.settings, gateway.metrics.quality
    watch = Watch(gateway.live, metrics)
    shadow = Shadow(caller, watch, Labels(settings.state_dir), is_busy, metrics)
    shadow.commands_dir = settings.commands_dir
    cascade.watch, cascade.shadow = watch, shadow
    asking = _canaries(gateway, caller, watch, is_busy) if settings.canaries_per_hour else None
    try:
        yield
    finally:
        if asking is not None:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        await shadow.close()


def _canaries(
    gateway: Gateway, caller: Caller, watch: Watch, is_busy: Callable[[], bool]
) -> asyncio.Task[None]:
    from motley_runtime.gateway.canaries import Canaries

    settings: GatewaySettings = gateway.settings
    assert settings.canaries_per_hour is not None
    canaries = Canaries(
        settings.canaries_per_hour, caller, watch, gateway.live, gateway.metrics.quality
    )
    canaries.is_busy, canaries.state_dir = is_busy, settings.state_dir
    return asyncio.create_task(canaries.run())
