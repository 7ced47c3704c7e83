"""Tells the operator that requests wait, by an annotation on the ConfigMap `<resource>-wake`.

The operator watches it as it watches all that it made, so that a word is heard at once and nothing
is polled. The gateway's Role lets it patch this one object, which nobody obeys, and none other: what
it obeys itself, its routing, it can only read.
"""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import orjson

from motley_planner.dispatch import RoutingTable
from motley_runtime.gateway.routing_configmap import ApiServer

HELD_AT = "motley.dev/requests-held-at"
_MANAGER = "motley-gateway"
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class WakeConfigMap:
    """Writes the annotation, each time with another value: the operator asks only if it is news."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def tell(self, table: RoutingTable) -> None:
        """One word. Raises: aiohttp.ClientError, OSError, TimeoutError."""
        resource = table.resource
        url = (
            f"{self._server.url}/api/v1/namespaces/{resource.namespace}"
            f"/configmaps/{resource.name}-wake"
        )
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        body = orjson.dumps({"metadata": {"annotations": {HELD_AT: now}}})
        headers = {"content-type": "application/merge-patch+json", **self._server.headers()}
        connector = aiohttp.TCPConnector(ssl=self._server.tls())
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            asked = session.patch(
                url, data=body, headers=headers, params={"fieldManager": _MANAGER}
            )
            async with asked as response:
                response.raise_for_status()
