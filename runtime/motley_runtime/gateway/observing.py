"""Puts together what looks at answers beside the requests' way, for as long as a gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.cascade import Cascade
from motley_runtime.gateway.labels import Labels
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.quality_metrics import QualityMetrics
from motley_runtime.gateway.shadow import Shadow
from motley_runtime.gateway.watching import Watch


@dataclass(frozen=True, slots=True)
class Place:
    """Whose answers are looked at, and where it is told; nothing is asked of a busy gateway."""

    settings: GatewaySettings
    live: LiveRouting
    metrics: QualityMetrics
    is_busy: Callable[[], bool]


@asynccontextmanager
async def observing(place: Place, cascade: Cascade, caller: Caller) -> AsyncIterator[None]:
    """Gives a cascade its watch and shadow, and asks canaries, while it is entered."""
    settings, metrics = place.settings, place.metrics
    watch = Watch(place.live, metrics)
    shadow = Shadow(caller, watch, Labels(settings.state_dir), place.is_busy, metrics)
    shadow.commands_dir = settings.commands_dir
    cascade.watch, cascade.shadow = watch, shadow
    asking = _canaries(place, caller, watch) if settings.canaries_per_hour else None
    try:
        yield
    finally:
        if asking is not None:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        await shadow.close()


def _canaries(place: Place, caller: Caller, watch: Watch) -> asyncio.Task[None]:
    from motley_runtime.gateway.canaries import Canaries

    settings = place.settings
    assert settings.canaries_per_hour is not None
    canaries = Canaries(settings.canaries_per_hour, caller, watch, place.live, place.metrics)
    canaries.is_busy, canaries.state_dir = place.is_busy, settings.state_dir
    return asyncio.create_task(canaries.run())
