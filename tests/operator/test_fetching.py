"""The program of the Job's pod, as a process of its own, with a hub and an API server made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from motley_operator.manifests import weights

# A stand-in for huggingface_hub 0.x/1.x: the two calls that the program makes, on a folder of files.
HUB = """
import os, pathlib, shutil
from types import SimpleNamespace as N
REPOSITORY = pathlib.Path(os.environ["TEST_REPOSITORY"])
class GatedRepoError(Exception): pass
class HfApi:
    def model_info(self, model, revision=None, files_metadata=False):
        if not (REPOSITORY / model).is_dir():
            raise GatedRepoError(f"403 Client Error: {model}\\nask for access")
        assert files_metadata and revision in (None, "v1")
        files = [p for p in (REPOSITORY / model).rglob("*") if p.is_file()]
        rows = [N(rfilename=str(p.relative_to(REPOSITORY / model)), size=p.stat().st_size) for p in files]
        return N(sha="c0ffee", siblings=rows)
def snapshot_download(model, revision=None, local_dir=None, allow_patterns=None):
    assert revision == "c0ffee"
    for name in allow_patterns:
        target = pathlib.Path(local_dir, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / model / name, target)
    if os.environ.get("TEST_BREAKS"):
        raise OSError("connection reset")
"""


class Server:
    """An API server that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, dict[str, Any]]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kind, token = self.headers["Content-Type"], self.headers["Authorization"]
                asked.append((self.path, kind, token, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/progress"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def environment(tmp_path: Path, server: Server) -> dict[str, str]:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "huggingface_hub.py").write_text(HUB)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("secret\n")
    repository = tmp_path / "hub" / "org" / "model"
    (repository / "original").mkdir(parents=True)
    for name, size in (
        ("a.safetensors", 900),
        ("b.bin", 900),
        ("original/c.pth", 9),
        ("d.json", 100),
    ):
        (repository / name).write_bytes(b"x" * size)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path / "lib"),
        "TEST_REPOSITORY": str(tmp_path / "hub"),
        "MOTLEY_ACCOUNT": str(account),
        "MOTLEY_PROGRESS": server.url,
        "MOTLEY_MODEL": "org/model",
        "MOTLEY_REVISION": "",
        "MOTLEY_ROOT": str(tmp_path / "volume"),
        "MOTLEY_FOLDER": "org--model/main",
    }


def fetched(environment: dict[str, str], **changes: str) -> subprocess.CompletedProcess[str]:
    """The program run as its pod runs it."""
    argv = [sys.executable, "-c", weights.PROGRAM]
    return subprocess.run(
        argv, env=environment | changes, capture_output=True, text=True, check=False, timeout=30
    )


def test_what_engines_read_is_fetched_and_counted(
    environment: dict[str, str], server: Server
) -> None:
    done = fetched(environment)
    assert done.returncode == 0, done.stderr
    folder = Path(environment["MOTLEY_ROOT"], "org--model", "main")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*")} == {"a.safetensors", "d.json"}
    path, kind, token, last = server.asked[-1]
    assert (path, kind, token) == ("/progress", "application/merge-patch+json", "Bearer secret")
    assert last == {"data": {"doneBytes": "1000", "totalBytes": "1000"}}
    again = fetched(environment, TEST_REPOSITORY="/nowhere")
    assert again.returncode == 0 and "1000 bytes" in again.stdout


def test_a_folder_is_whole_or_not_there_and_an_attempt_goes_on_from_the_last(
    environment: dict[str, str],
) -> None:
    volume = Path(environment["MOTLEY_ROOT"])
    broken = fetched(environment, TEST_BREAKS="1")
    assert broken.returncode == 1 and broken.stderr == "OSError: connection reset\n"
    assert not (volume / "org--model" / "main").exists()
    assert (volume / "org--model" / "main.partial" / "a.safetensors").exists()
    assert fetched(environment).returncode == 0
    assert not (volume / "org--model" / "main.partial").exists()


def test_a_model_that_may_not_be_read_is_said_in_one_line(environment: dict[str, str]) -> None:
    done = fetched(environment, MOTLEY_MODEL="org/secret")
    assert done.returncode == 1
    assert done.stderr.startswith("GatedRepoError: 403 Client Error: org/secret")
    assert "secret\n" not in done.stdout


def test_weights_are_fetched_though_nobody_takes_the_progress(environment: dict[str, str]) -> None:
    done = fetched(environment, MOTLEY_PROGRESS="http://127.0.0.1:9/nobody")
    assert done.returncode == 0
    assert "progress not written" in done.stdout


def test_an_image_without_the_hub_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "lib" / "huggingface_hub.py").write_text("raise ImportError('no hub here')")
    done = fetched(environment)
    assert (done.returncode, done.stderr) == (1, "ImportError: no hub here\n")
