"""A live cluster is read once, by GETs alone, in the versions that it has."""

from __future__ import annotations

from typing import Any

import pytest

from motley_operator.cli.live import _read
from motley_operator.connection import Client, Credentials


@pytest.mark.parametrize("lacking", [(), ("v1",), ("v1", "v1beta2"), ("v1", "v1beta2", "v1beta1")])
async def test_a_kind_is_read_in_the_newest_version_that_the_cluster_has(
    lacking: tuple[str, ...], api: Any, client: Client, node: Any
) -> None:
    del client  # it has started the server
    api.absent |= {f"{version}/resourceslices" for version in lacking}
    api.put("Node", node("n0"))
    api.put("ResourceSlice", {"metadata": {"name": "s"}, "spec": {}})
    found = await _read([], lambda: Credentials(server=api.url), "cluster here")
    assert [item["metadata"]["name"] for _, item in found.nodes] == ["n0"]
    names = [item["metadata"]["name"] for _, item in found.objects]
    assert names == (["s"] if len(lacking) < 3 else [])
    assert api.calls["absent resourceslices"] == len(lacking)
    assert not any(call.startswith(("POST", "PATCH", "PUT", "DELETE")) for call in api.calls)
