"""A real Prometheus for tests, started on a free port.

Looked for in `$MOTLEY_CONTROL_PLANE_BIN`, the cache folder `prometheus` and PATH. Where there is none,
tests that need one are skipped; on Debian and Ubuntu `python -m e2e.prometheus` unpacks the system's
package into the cache, installing nothing (19 MB; `apt-get update` first where lists are missing).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import processes
from e2e.cluster.binaries import cache_directory
from e2e.cluster.components import free_ports

SCRAPE_S = 1


def find(name: str) -> Path | None:
    """The program `prometheus` or `promtool`; None where there is none."""
    folders = [
        os.environ.get("MOTLEY_CONTROL_PLANE_BIN", ""),
        str(cache_directory() / "prometheus"),
    ]
    for folder in filter(None, folders):
        if os.access(Path(folder) / name, os.X_OK):
            return Path(folder) / name
    found = shutil.which(name)
    return Path(found) if found else None


def fetch() -> Path:
    """Unpacks `prometheus` and `promtool` of the system's package into the cache folder.

    Raises: CalledProcessError or FileNotFoundError where there is no apt, or no such package.
    """
    target = cache_directory() / "prometheus"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=folder, check=True)
        (package,) = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder / "root")], check=True)
        for program in ("prometheus", "promtool"):
            shutil.copy2(folder / "root" / "usr" / "bin" / program, target / program)
    return target


class Exporter:
    """An HTTP endpoint whose /metrics is what `text` says; `stop` closes its port."""

    def __init__(self) -> None:
        self.text = ""
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


def static(targets: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A scrape configuration of these targets: address -> labels."""
    groups = [{"targets": [address], "labels": dict(each)} for address, each in targets.items()]
    return {"job_name": "motley", "static_configs": groups}


@contextmanager
def running(folder: Path, *scrapes: Mapping[str, Any]) -> Iterator[str]:
    """A Prometheus that scrapes what these configurations say, each second; its base URL.

    Raises: RuntimeError where there is no prometheus, or it does not start.
    """
    program = find("prometheus")
    if program is None:
        raise RuntimeError("no prometheus: see e2e/prometheus.py")
    port = free_ports(("prometheus",))["prometheus"]
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"},
                "scrape_configs": [dict(scrape) for scrape in scrapes],
            }
        )
    )
    argv = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    process = processes.spawn(argv, folder / "prometheus.log")
    url = f"http://127.0.0.1:{port}"
    try:
        if not _answers(f"{url}/-/ready", process):
            raise RuntimeError((folder / "prometheus.log").read_text()[-2000:])
        yield url
    finally:
        processes.stop(process, grace_s=5.0)


def _answers(url: str, process: processes.Process) -> bool:
    pause = threading.Event()
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
            if answer.status == 200:
                return True
        if not processes.is_alive(process):
            return False
        pause.wait(0.1)
    return False


if __name__ == "__main__":
    print(fetch(), file=sys.stderr)
