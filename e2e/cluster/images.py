"""Writes OCI images without a daemon: layers as plain tars, config, manifest, one archive.

What is written depends on the contents alone: entries are sorted, owned by root, and of the time 0,
so equal contents have equal digests. The archive is an OCI image layout in a tar, which
`ctr images import` reads; `io.containerd.image.name` gives each image its name.
Source: github.com/opencontainers/image-spec, image-layout.md, config.md and layer.md of v1.0.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
EPOCH = "1970-01-01T00:00:00Z"
_MEDIA = "application/vnd.oci.image"
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, link or folder of a layer: its absolute path, and what it is made from.

    With `link` a symbolic link; with `source` a file of this machine, or what `render` makes of it
    (nothing where that is None); with `data` a file of these bytes; with none of them a folder.
    """

    path: str
    source: Path | None = None
    data: bytes | None = None
    render: Callable[[Path], bytes | None] | None = None
    link: str = ""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as a file: an uncompressed tar, so its digest is its diff id too."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image to write; the fields after the layers are those of a Dockerfile."""

    name: str
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    user: str = "65532:65532"
    working_directory: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()


def architecture() -> str:
    """This machine's architecture in the words of images."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def write_layer(entries: Iterable[Entry], target: Path) -> Layer:
    """Writes the entries, and the folders above them, as one layer.

    Raises: ValueError if two entries have one path.
    """
    wanted: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in wanted:
            raise ValueError(f"{entry.path} is twice in one layer")
        wanted[entry.path] = entry
    for path in list(wanted):
        for parent in PurePosixPath(path).parents:
            wanted.setdefault(str(parent), Entry(str(parent), mode=0o755))
    wanted.pop("/", None)
    with target.open("wb") as out, _tar(out, "w") as tar:
        for path in sorted(wanted):
            _add(tar, wanted[path])
    return Layer(target, _digest_of_file(target), target.stat().st_size)


def _tar(out: BinaryIO, mode: Literal["w", "w|"]) -> tarfile.TarFile:
    return tarfile.open(fileobj=out, mode=mode, format=tarfile.GNU_FORMAT)


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path.lstrip("/"))
    info.mode = entry.mode
    if entry.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.addfile(info)
    elif entry.source is not None and entry.render is not None:
        data = entry.render(entry.source)
        if data is not None:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    elif entry.source is not None:
        with entry.source.open("rb") as stream:
            info.size = entry.source.stat().st_size
            tar.addfile(info, stream)
    elif entry.data is not None:
        info.size = len(entry.data)
        tar.addfile(info, io.BytesIO(entry.data))
    else:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)


def config_of(image: Image) -> bytes:
    """The image's config, as canonical JSON."""
    inner = {
        "User": image.user,
        "Env": [f"{name}={value}" for name, value in image.environment.items()],
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "WorkingDir": image.working_directory,
        "Labels": dict(image.labels),
        "ExposedPorts": {f"{port}/tcp": {} for port in image.ports},
    }
    return _json(
        {
            "architecture": architecture(),
            "os": "linux",
            "created": EPOCH,
            "config": {key: value for key, value in inner.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [one.digest for one in image.layers]},
        }
    )


def manifest_of(image: Image) -> bytes:
    """The image's manifest, as canonical JSON."""
    layers = [_descriptor(f"{_MEDIA}.layer.v1.tar", one.digest, one.size) for one in image.layers]
    config = config_of(image)
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _descriptor(f"{_MEDIA}.config.v1+json", _digest(config), len(config)),
            "layers": layers,
        }
    )


def write_archive(images: Sequence[Image], out: BinaryIO) -> None:
    """Writes one archive of all images; a layer that several have is in it once."""
    manifests = []
    with _tar(out, "w|") as tar:
        _add(tar, Entry("oci-layout", data=_json({"imageLayoutVersion": "1.0.0"})))
        written: set[str] = set()
        for image in images:
            config, manifest = config_of(image), manifest_of(image)
            named = {"io.containerd.image.name": image.name}
            about = _descriptor(f"{_MEDIA}.manifest.v1+json", _digest(manifest), len(manifest))
            manifests.append({**about, "annotations": named, "platform": _platform()})
            blobs = [Entry(_blob(_digest(one)), data=one) for one in (config, manifest)]
            blobs += [Entry(_blob(one.digest), source=one.path) for one in image.layers]
            for entry in blobs:
                if entry.path not in written:
                    _add(tar, entry)
                    written.add(entry.path)
        _add(tar, Entry("index.json", data=_json({"schemaVersion": 2, "manifests": manifests})))


def _platform() -> dict[str, str]:
    return {"architecture": architecture(), "os": "linux"}


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"
