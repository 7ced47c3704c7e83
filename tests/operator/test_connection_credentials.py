"""A kubeconfig, or the lack of one, becomes credentials or a sentence that helps."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from motley_operator.connection import load_credentials
from motley_operator.errors import OperatorError


def write(path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> str:
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_a_token_and_inline_authority_are_taken(tmp_path: Path) -> None:
    authority = {"certificate-authority-data": base64.b64encode(b"PEM").decode()}
    found = load_credentials(write(tmp_path / "config", {"token": "t"}, authority), environ={})
    assert (found.server, found.ca_data) == ("https://api:6443", b"PEM")
    assert found.headers() == {"Authorization": "Bearer t"}


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "ca").write_bytes(b"CA")
    path = write(tmp_path / "config", {"tokenFile": "secret"}, {"certificate-authority": "ca"})
    found = load_credentials(environ={"KUBECONFIG": path})
    assert (found.token, found.ca_data) == ("from-file", b"CA")


def test_a_plugins_token_is_used(tmp_path: Path) -> None:
    kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    answer = json.dumps({**kind, "status": {"token": "minted"}})
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", f"print({answer!r})"],
    }
    path = write(tmp_path / "config", {"exec": plugin})
    assert load_credentials(path, environ={}).token == "minted"


def test_of_several_files_the_first_to_name_something_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "one", {"token": "first"})
    second = write(tmp_path / "two", {"token": "second"})
    found = load_credentials(environ={"KUBECONFIG": f"{tmp_path / 'none'}:{first}:{second}"})
    assert found.token == "first"


@pytest.mark.parametrize(
    ("context", "words"), [("there", "it has the contexts here"), (None, "no kubeconfig")]
)
def test_what_is_missing_is_named(tmp_path: Path, context: str | None, words: str) -> None:
    path = write(tmp_path / "config", {}) if context else str(tmp_path / "absent")
    with pytest.raises(OperatorError, match=words):
        load_credentials(path, context, environ={})


def test_a_pods_own_service_account_is_taken_as_the_kubelet_mounts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of-the-pod\n")
    (tmp_path / "ca.crt").write_text("authority")
    places = {"TOKEN": "token", "CERT": "ca.crt"}
    for name, file in places.items():
        constant = f"kubernetes.config.incluster_config.SERVICE_{name}_FILENAME"
        monkeypatch.setattr(constant, str(tmp_path / file))
    service = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for name, value in service.items():
        monkeypatch.setenv(name, value)
    found = load_credentials(environ=service)
    assert found.server == "https://10.96.0.1:443"
    assert found.headers() == {"Authorization": "Bearer of-the-pod"}
    assert found.ca_data == b"authority"
