"""Images written by hand: an OCI layout whose digests hold, the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster.images import Entry, Image, Layer, config_of, write_archive, write_layer


def layer(folder: Path, name: str = "layer", *more: Entry) -> Layer:
    entries = [
        Entry("/usr/bin/tool", data=b"#!", mode=0o755),
        Entry("/usr/bin/alias", link="tool"),
        Entry("/tmp", mode=0o1777),
    ]
    return write_layer([*entries, *more], folder / name)


def archive(*images: Image) -> dict[str, bytes]:
    """Files of the archive of these images, by name."""
    out = io.BytesIO()
    write_archive(images, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        names = [member.name for member in tar]
        assert len(names) == len(set(names)), "each blob once"
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """The blob that a descriptor points at; its digest and size hold."""
    found = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert hashlib.sha256(found).hexdigest() == descriptor["digest"].partition(":")[2]
    assert len(found) == descriptor["size"]
    return found


def test_a_layer_has_files_links_and_the_folders_above_them_as_root_at_the_epoch(
    tmp_path: Path,
) -> None:
    with tarfile.open(layer(tmp_path).path) as tar:
        found = {member.name: member for member in tar}
    assert (
        list(found) == sorted(found) == ["tmp", "usr", "usr/bin", "usr/bin/alias", "usr/bin/tool"]
    )
    assert found["usr/bin/tool"].mode == 0o755 and found["tmp"].mode == 0o1777
    assert found["usr"].isdir() and found["usr"].mode == 0o755
    assert found["usr/bin/alias"].linkname == "tool"
    assert {(m.uid, m.gid, m.mtime) for m in found.values()} == {(0, 0, 0)}


def test_equal_contents_have_equal_digests_whenever_and_wherever_they_are_written(
    tmp_path: Path,
) -> None:
    digests = []
    for name in ("one", "two"):
        source = tmp_path / f"{name}.source"
        source.write_bytes(b"data")
        os.utime(source, (1, 1 if name == "one" else 10**9))
        digests.append(layer(tmp_path, name, Entry("/data", source=source)).digest)
    assert digests[0] == digests[1]
    other = layer(tmp_path, "other", Entry("/data", data=b"other")).digest
    assert other not in digests


def test_two_entries_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        layer(tmp_path, "twice", Entry("/tmp"))


def test_every_descriptor_of_an_archive_points_at_what_it_says(tmp_path: Path) -> None:
    base, top = layer(tmp_path), write_layer([Entry("/top", data=b"t")], tmp_path / "top")
    images = (Image("x/a:1", (base,), ("/usr/bin/tool",)), Image("x/b:1", (base, top), ("/top",)))
    files = archive(*images)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    names = [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]]
    assert names == ["x/a:1", "x/b:1"]
    for image, described in zip(images, index["manifests"], strict=True):
        manifest = json.loads(blob(files, described))
        config = json.loads(blob(files, manifest["config"]))
        layers = [blob(files, one) for one in manifest["layers"]]
        assert layers == [one.path.read_bytes() for one in image.layers]
        # An uncompressed layer's digest is its diff id.
        assert config["rootfs"]["diff_ids"] == [one["digest"] for one in manifest["layers"]]
        assert config["config"]["Entrypoint"] == list(image.entrypoint)


def test_a_config_says_no_more_than_was_said(tmp_path: Path) -> None:
    image = Image("x/a:1", (layer(tmp_path),), ("/a",), user="7:7", ports=("80",))
    config = json.loads(config_of(image))["config"]
    assert config == {
        "User": "7:7",
        "Entrypoint": ["/a"],
        "WorkingDir": "/",
        "ExposedPorts": {"80/tcp": {}},
    }
