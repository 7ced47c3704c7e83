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
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Runs the module as `python -m` does; does not return."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=Path, required=True, help="lines of address and name")
    parser.add_argument("--account", type=Path, help="a folder with token and ca.crt")
    parser.add_argument("--server", default="", help="the API server, https://HOST:PORT")
    parser.add_argument("module")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    socket.getaddrinfo = _with_hosts(options.hosts, socket.getaddrinfo)
    if options.account is not None:
        from motley_runtime.gateway import routing_configmap

        routing_configmap._ACCOUNT = options.account
    if options.server:
        host, _, port = options.server.removeprefix("https://").partition(":")
        os.environ |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    sys.argv = [options.module, *options.rest]
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


def _with_hosts(path: Path, original: Callable[..., Any]) -> Callable[..., Any]:
    """getaddrinfo that asks the hosts file before the system."""
    known: dict[str, str] = {}
    read_at = 0

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        nonlocal read_at
        changed_at = path.stat().st_mtime_ns if path.exists() else 0
        if changed_at != read_at:
            read_at = changed_at
            known.clear()
            for line in path.read_text().splitlines():
                address, _, name = line.partition(" ")
                known[name] = address
        text = host.decode() if isinstance(host, bytes) else host
        return original(known.get(text, host), *args, **more)

    return getaddrinfo


if __name__ == "__main__":
    main()
