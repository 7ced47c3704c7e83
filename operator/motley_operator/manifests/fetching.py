"""Fetches a model's weights into a folder: the program of the Job's pod, not part of the operator.

It is handed to `python3 -c` as text and needs the standard library and huggingface_hub, which every
engine's image has. All that a person wrote reaches it in variables, never on a command line. The folder
appears by one rename when everything is in it, so it is whole or not there; what is fetched so
far stays beside it, and the next attempt goes on from there. Progress goes to a ConfigMap.
"""

from __future__ import annotations

import fnmatch
import json
import os
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCOUNT = Path(os.environ.get("MOTLEY_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
REPORT_S = float(os.environ.get("MOTLEY_REPORT_S", "10"))
# Other frameworks' copies of the same weights, and those of before safetensors.
OTHERS = ("original/*", "*.gguf", "*.onnx*", "*.msgpack", "*.h5", "*.tflite", "*.ot")
OLDER = ("*.bin", "*.pt", "*.pth")


def wanted(sizes: Mapping[str, int]) -> list[str]:
    """The files that engines read, out of a repository's."""
    skipped = OTHERS + (OLDER if any(name.endswith(".safetensors") for name in sizes) else ())
    return [n for n in sizes if not any(fnmatch.fnmatch(n, pattern) for pattern in skipped)]


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder, those still being written included."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue  # renamed meanwhile


def report(done: int, total: int) -> None:
    """Write the progress; where that fails the weights are fetched all the same."""
    at = os.environ.get("MOTLEY_PROGRESS")
    if not at:
        return
    body = {"data": {"doneBytes": str(min(done, total)), "totalBytes": str(total)}}
    request = urllib.request.Request(at, json.dumps(body).encode(), method="PATCH")
    request.add_header("Content-Type", "application/merge-patch+json")
    try:
        request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text().strip()}")
        authority = ACCOUNT / "ca.crt"
        context = ssl.create_default_context(cafile=str(authority)) if authority.exists() else None
        with urllib.request.urlopen(request, timeout=10, context=context):
            pass
    except OSError as error:
        print(f"progress not written: {error}", flush=True)


@contextmanager
def reporting(folder: Path, total: int) -> Iterator[None]:
    """Report every few seconds while the block runs."""
    over = threading.Event()

    def run() -> None:
        last = -1
        while True:
            percent = 100 * bytes_below(folder) // max(1, total)
            if percent != last:
                last = percent
                report(bytes_below(folder), total)
            if over.wait(REPORT_S):
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fetch(hub: Any, target: Path) -> int:
    """Fetch the model into `target`; the bytes it has."""
    model, revision = os.environ["MOTLEY_MODEL"], os.environ.get("MOTLEY_REVISION") or None
    if target.is_dir():
        return bytes_below(target)
    info = hub.HfApi().model_info(model, revision=revision, files_metadata=True)
    sizes = {each.rfilename: int(each.size or 0) for each in info.siblings or ()}
    names: Iterable[str] = wanted(sizes)
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with reporting(partial, sum(sizes[name] for name in names)):
        # The revision that was listed, so that a branch that moves meanwhile is not mixed.
        hub.snapshot_download(
            model, revision=info.sha, local_dir=str(partial), allow_patterns=list(names)
        )
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # else another Job has just done the same
            raise
    return bytes_below(target)


def say_last(kind: type[BaseException], error: BaseException, _: object) -> None:
    """One line in place of a traceback: the resource's condition says these words."""
    print(f"{kind.__name__}: {str(error).strip()}", file=sys.stderr, flush=True)


def main() -> None:
    """Fetch what the environment names."""
    sys.excepthook = say_last
    import huggingface_hub  # type: ignore[import-not-found, unused-ignore]

    done = fetch(huggingface_hub, Path(os.environ["MOTLEY_ROOT"], os.environ["MOTLEY_FOLDER"]))
    report(done, done)
    print(f"{done} bytes", flush=True)


if __name__ == "__main__":
    main()
