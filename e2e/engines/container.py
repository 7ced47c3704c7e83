"""Starts one of Motley's programs as a container would be: with the cluster's names and an account.

    python -m e2e.engines.container --hosts FILE [--account DIR --server URL] MODULE [ARGUMENT ...]

In a container the cluster's DNS resolves Services and the kubelet mounts the service account. A
process of this machine has neither, so names are looked up in a hosts file first, read anew when
it has changed, and the account's folder is the given one.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp.resolver import ThreadedResolver

from motley_runtime.gateway.connection import Connection
from motley_runtime.gateway.pool import Pool, Target


def main() -> None:
    """Runs the module as `python -m` does; does not return."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=Path, required=True, help="lines of address and name")
    parser.add_argument("--account", type=Path, help="a folder with token and ca.crt")
    parser.add_argument("--server", default="", help="the API server, https://HOST:PORT")
    parser.add_argument("module")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    _Hosts(options.hosts).install()
    if options.account is not None:
        from motley_runtime.gateway import routing_configmap

        routing_configmap._ACCOUNT = options.account
    if options.server:
        host, _, port = options.server.removeprefix("https://").partition(":")
        os.environ |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    sys.argv = [options.module, *options.rest]
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


class _Hosts:
    """What stands before both of the gateway's clients; uvloop never calls the socket module."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_at = path, 0
        self._known: dict[str, str] = {}

    def address_of(self, host: str) -> str:
        """The host's address in the file, or the host."""
        changed_at = self._path.stat().st_mtime_ns if self._path.exists() else 0
        if changed_at != self._read_at:
            lines = (line.partition(" ") for line in self._path.read_text().splitlines())
            self._known = {name: address for address, _, name in lines}
            self._read_at = changed_at
        return self._known.get(host, host)

    def install(self) -> None:
        """From now on every aiohttp client and every pool of connections of this process asks here."""
        original: Callable[..., Any] = ThreadedResolver.resolve
        connect: Callable[..., Any] = Pool._connect

        async def resolve(resolver: ThreadedResolver, host: str, *args: Any, **more: Any) -> Any:
            return await original(resolver, self.address_of(host), *args, **more)

        async def connected(pool: Pool, target: Target) -> Connection:
            host = self.address_of(target.host)
            found: Connection = await connect(pool, replace(target, host=host))
            return found

        setattr(ThreadedResolver, "resolve", resolve)  # noqa: B010
        setattr(Pool, "_connect", connected)  # noqa: B010


if __name__ == "__main__":
    main()
