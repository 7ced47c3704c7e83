"""Routing from a ConfigMap, watched with the pod's own service account.

List, then watch from the list's resourceVersion; when the watch ends, watch on from the last
version seen; when that is too old (410), list again. The field selector makes a Role with
`resourceNames` enough for both verbs. Nothing is ever written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from motley_runtime.gateway.live_routing import LiveRouting

log = logging.getLogger("motley.gateway")

ROUTING_KEY = "routing.json"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_S = 300  # the server ends a watch after this; the next one resumes where it stopped
_BREATH_S = 0.05  # between watches, should a server end each at once
_LINE_BYTES = 8 * 2**20  # a ConfigMap is at most 1 MiB, its JSON escapes a little more


class RelistNeeded(Exception):
    """The API server no longer knows the version we would go on from."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where the API server is and how this pod proves who it is."""

    url: str
    token_path: Path | None = None
    ca_path: Path | None = None

    @staticmethod
    def in_cluster(environ: Mapping[str, str] = os.environ) -> ApiServer:
        """The API server of the cluster this process runs in. Raises: RuntimeError outside one."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise RuntimeError(
                "--routing-configmap works inside a cluster only: KUBERNETES_SERVICE_HOST and "
                "KUBERNETES_SERVICE_PORT are not set; use --routing-file"
            )
        host = f"[{host}]" if ":" in host else host
        return ApiServer(f"https://{host}:{port}", _ACCOUNT / "token", _ACCOUNT / "ca.crt")

    def headers(self) -> dict[str, str]:
        """Request headers, the token read anew because the kubelet rotates it."""
        if self.token_path is None:
            return {}
        return {"authorization": f"Bearer {self.token_path.read_text().strip()}"}

    def tls(self) -> ssl.SSLContext | bool:
        """How the server's certificate is checked."""
        return ssl.create_default_context(cafile=self.ca_path) if self.ca_path else True


async def follow_configmap(server: ApiServer, namespace: str, name: str, live: LiveRouting) -> None:
    """Offers the ConfigMap's routing document now and at every change; never ends."""
    await ConfigMapWatch(server, namespace, name, live).run()


class ConfigMapWatch:
    """The list-and-watch loop over one ConfigMap."""

    retry_s = 1.0
    retry_max_s = 15.0

    def __init__(self, server: ApiServer, namespace: str, name: str, live: LiveRouting) -> None:
        self._server, self._live, self._name = server, live, f"{namespace}/{name}"
        self._url = f"{server.url}/api/v1/namespaces/{namespace}/configmaps"
        self._select = {"fieldSelector": f"metadata.name={name}"}
        self._version = ""

    async def run(self) -> None:
        """Follows the ConfigMap for ever, through errors and restarts of the API server."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_WATCH_S + 15)
        connector = aiohttp.TCPConnector(ssl=self._server.tls())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            pause = self.retry_s
            while True:
                try:
                    if not self._version:
                        await self._list(session)
                    pause = self.retry_s
                    await self._watch(session)
                    await asyncio.sleep(_BREATH_S)
                except RelistNeeded:
                    self._version = ""
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    fields = {"reason": f"{type(error).__name__}: {error}", "retry_s": pause}
                    log.warning("ConfigMap watch interrupted", extra={"fields": fields})
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, self.retry_max_s)

    async def _list(self, session: aiohttp.ClientSession) -> None:
        async with session.get(
            self._url, params=self._select, headers=self._server.headers()
        ) as response:
            response.raise_for_status()
            listed = orjson.loads(await response.read())
        for item in listed.get("items") or ():
            self._offer(item)
        if not listed.get("items"):
            self._live.refuse(f"ConfigMap {self._name} does not exist")
        self._version = listed["metadata"]["resourceVersion"]

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        params = self._select | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_S),
        }
        async with session.get(
            self._url, params=params, headers=self._server.headers()
        ) as response:
            if response.status == 410:
                raise RelistNeeded
            response.raise_for_status()
            async for line in _lines(response.content):
                self._handle(orjson.loads(line))

    def _handle(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise RelistNeeded
            raise ValueError(f"the API server ended the watch: {item.get('message')}")
        self._version = item["metadata"]["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            self._offer(item)
        elif kind == "DELETED":
            self._live.refuse(f"ConfigMap {self._name} was deleted")

    def _offer(self, item: dict[str, Any]) -> None:
        text = (item.get("data") or {}).get(ROUTING_KEY)
        if text is None:
            self._live.refuse(f"ConfigMap {self._name} has no key {ROUTING_KEY}")
        else:
            self._live.offer(text.encode())


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    pending = b""
    async for chunk in content.iter_any():
        *complete, pending = (pending + chunk).split(b"\n")
        if len(pending) > _LINE_BYTES:
            raise ValueError("a watch event is larger than any ConfigMap")
        for line in complete:
            if line.strip():
                yield line
