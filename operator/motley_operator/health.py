"""What the kubelet asks: /healthz, whether to restart us; /readyz, whether we can do our part.

Alive is who is not stuck: the cycle's event loop answers, and no cycle takes too long. Ready is who
has a whole view, be it the leader or one that stands by: every list was read, none has failed for too
long, and the Lease was looked at. One that is not ready says what it lacks and decides nothing.

Both are served from another event loop than the cycle's (kopf's), so that they answer when the cycle's
does not, which is the very thing to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from motley_operator.cycle import Cycle

LIVE, READY = "/healthz", "/readyz"
_ANSWER_S = 10.0


class Health:
    """Answers about one cycle, which lives on `loop`; `lacks` says what its view lacks, on that loop."""

    def __init__(
        self, cycle: Cycle, lacks: Callable[[], list[str]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._cycle, self._lacks, self._loop = cycle, lacks, loop
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        """Answer on a port of every address, on the event loop that runs now; 0 answers nowhere.

        Raises: OSError where the port is taken.
        """
        if not port:
            return
        app = web.Application()
        app.add_routes([web.get(LIVE, self._live), web.get(READY, self._ready)])
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", port).start()

    async def stop(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def alive(self) -> list[str]:
        """Why the process should be started anew; empty when it should not."""
        if await self._asked() is None:
            return [f"the event loop is blocked for {_ANSWER_S:.0f} s"]
        seconds = self._cycle.stuck_for_s()
        if seconds > self._cycle.settings.stuck_after_s:
            return [f"a cycle has been running for {seconds:.0f} s"]
        return []

    async def ready(self) -> list[str]:
        """Why this operator cannot do its part; empty when it can."""
        found = await self._asked()
        return [f"the event loop is blocked for {_ANSWER_S:.0f} s"] if found is None else found

    async def _asked(self) -> list[str] | None:
        """What the view lacks, asked on the cycle's event loop; None when that does not answer."""

        async def ask() -> list[str]:
            return self._lacks()

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), _ANSWER_S)
        except TimeoutError:
            return None

    async def _live(self, _: web.Request) -> web.Response:
        return _answer(await self.alive(), 500)

    async def _ready(self, _: web.Request) -> web.Response:
        return _answer(await self.ready(), 503)


def _answer(lacking: list[str], status: int) -> web.Response:
    """200 and "ok", or the status and a line for each sentence."""
    text = "\n".join(lacking) or "ok"
    return web.Response(text=f"{text}\n", status=status if lacking else 200)
