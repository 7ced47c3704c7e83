"""Routing from a file, looked at every 0.2 s."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from motley_runtime.gateway.live_routing import LiveRouting

_POLL_S = 0.2


async def follow_file(path: Path, live: LiveRouting) -> None:
    """Offers the file's content whenever its inode, size or time of change differs; never ends.

    A mounted ConfigMap changes by a swap of symbolic links, which shows as another inode.
    """
    seen: object = ()
    while True:
        try:
            stat = os.stat(path)
            signature: object = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            raw = path.read_bytes() if signature != seen else None
        except OSError as error:
            signature, raw = error.strerror, None
            if signature != seen:
                live.refuse(f"{path}: {error.strerror}")
        seen = signature
        if raw is not None:
            live.offer(raw)
        await asyncio.sleep(_POLL_S)
