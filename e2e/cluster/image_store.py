"""The images of the real node, and their layers kept in the user's cache directory.

A layer is written again only when one of its files has changed: which files, their sizes and times
are its key. What the last build did not use is removed.

    python -m e2e.cluster.image_store FILE.tar     # writes one archive of all images
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution
from pathlib import Path

from e2e.cluster import image_contents, images
from e2e.cluster.binaries import cache_directory
from e2e.cluster.images import Entry, Image, Layer, write_layer

# Names that no registry could answer for; the kubelet finds them because they were imported.
PAUSE = "motley.local/pause:1"
MOTLEY = "motley.local/motley:dev"
ENGINE = "motley.local/llamacpp:dev"
LLAMA_CPP = "xllamacpp"


def folder() -> Path:
    """Where layers are kept."""
    return cache_directory() / "images"


@contextmanager
def locked(store: Path | None = None) -> Iterator[list[Image]]:
    """All images, written where they are not there yet; their layers stay while the block runs.

    Raises: importlib.metadata.PackageNotFoundError if a package is not installed.
    """
    store = store or folder()
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield build(store)


def build(store: Path) -> list[Image]:
    """Pause, operator and gateway, engine."""
    engine = image_contents.distributions([LLAMA_CPP])
    needed = image_contents.distributions(image_contents.requirements())
    shared = (
        _layer(store, "interpreter", _python(), image_contents.interpreter),
        _layer(store, "packages", _named(needed), lambda: image_contents.installed(needed)),
        _listed(store, "motley", image_contents.project()),
    )
    llama = (
        _layer(store, "llamacpp", _named(engine), lambda: image_contents.installed(engine)),
        _listed(store, "engine", image_contents.engine()),
    )
    pause = _listed(store, "pause", image_contents.pause())
    _remove_all_but(store, {one.path for one in (*shared, *llama, pause)})
    return [pause_image(pause), motley_image(shared), engine_image((*shared, *llama))]


def pause_image(layer: Layer) -> Image:
    """What holds a pod's namespaces open: it sleeps, and is killed."""
    asleep = ("/bin/busybox", "sleep", "2147483647")
    return Image(PAUSE, (layer,), asleep, user="65535:65535")


def motley_image(layers: Sequence[Layer]) -> Image:
    """One image for operator and gateways, with what the Dockerfile says of it."""
    said = image_contents.dockerfile()
    return Image(
        MOTLEY,
        tuple(layers),
        said.words("ENTRYPOINT"),
        said.words("CMD"),
        user=said.text("USER"),
        working_directory=said.text("WORKDIR"),
        environment=said.pairs("ENV"),
        labels=said.pairs("LABEL"),
        ports=tuple(said.text("EXPOSE").split()),
    )


def engine_image(layers: Sequence[Layer]) -> Image:
    """The small engine, under the command that the catalog gives llama.cpp's own image."""
    said = image_contents.dockerfile()
    return Image(
        ENGINE,
        tuple(layers),
        ("/app/llama-server",),
        user=said.text("USER"),
        working_directory=said.text("WORKDIR"),
        environment=said.pairs("ENV"),
        ports=("8080",),
    )


def _python() -> str:
    """What tells one interpreter from another."""
    found = Path(sys.executable).resolve()
    return f"{found} {found.stat().st_mtime_ns} {sys.version}"


def _named(found: Sequence[Distribution]) -> str:
    """What tells one set of installed distributions from another."""
    return repr([(one.metadata["Name"], one.version, str(one.locate_file(""))) for one in found])


def _listed(store: Path, name: str, entries: list[Entry]) -> Layer:
    """A layer whose key is each of its files, for files that a person edits."""
    key = []
    for entry in sorted(entries, key=lambda one: one.path):
        found = entry.source.stat() if entry.source is not None else None
        times = (found.st_size, found.st_mtime_ns) if found is not None else ()
        key.append((entry.path, str(entry.source), times, entry.data, entry.mode))
    return _layer(store, name, repr(key), lambda: entries)


def _layer(store: Path, name: str, key: str, entries: Callable[[], list[Entry]]) -> Layer:
    """The layer, kept from before where its key and the code that writes it are the same."""
    digest = hashlib.sha256(key.encode())
    for module in (images, image_contents):
        digest.update(Path(str(module.__file__)).read_bytes())
    path = store / f"{name}-{digest.hexdigest()[:16]}.tar"
    record = path.with_suffix(".json")
    if path.exists() and record.exists():
        kept = json.loads(record.read_text())
        return Layer(path, kept["digest"], kept["size"])
    partial = path.with_suffix(".partial")
    made = write_layer(entries(), partial)
    partial.rename(path)
    record.write_text(json.dumps({"digest": made.digest, "size": made.size}))
    return Layer(path, made.digest, made.size)


def _remove_all_but(store: Path, kept: set[Path]) -> None:
    for path in store.glob("*.tar"):
        if path not in kept:
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)


if __name__ == "__main__":
    with locked() as written, Path(sys.argv[1]).open("wb") as out:
        images.write_archive(written, out)
        for one in written:
            size = sum(layer.size for layer in one.layers)
            print(f"{one.name:<28} {len(one.layers)} layers {size / 1e6:>6.0f} MB")
