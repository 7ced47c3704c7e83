"""The health script for Argo CD, run by Lua 5.1 (as Argo CD's) without the string library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.gitops.states import State, states

from motley_operator.api import KINDS

lua51 = pytest.importorskip("lupa.lua51")

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "charts/motley/files/argocd/health.lua").read_text()
PATCH = yaml.safe_load((ROOT / "docs/gitops/argocd-cm.yaml").read_text())
STATES = states()
_SANDBOX = """
function(script, object)
  debug.setmetatable("", nil)
  local open = {ipairs = ipairs, pairs = pairs, type = type, tostring = tostring, table = table}
  open.obj = object
  local run = assert(loadstring(script))
  setfenv(run, open)
  return run()
end
"""


def health(document: dict[str, Any], script: str = SCRIPT) -> tuple[str, str]:
    """Status and message that the script gives."""
    lua = lua51.LuaRuntime()
    found = lua.eval(_SANDBOX)(script, _table(lua, document))
    return found["status"], found["message"]


def _table(lua: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return lua.table_from({k: _table(lua, v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return lua.table_from([_table(lua, v) for v in value])
    return value


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_argo_cd_reads_every_state_as_it_is(state: State) -> None:
    found, message = health(state.document)
    assert found == state.argo, state.document["status"]
    assert message or found == "Healthy"


@pytest.mark.parametrize("status", [None, {}, {"conditions": []}])
def test_a_resource_without_a_report_is_progressing(status: dict[str, Any] | None) -> None:
    document: dict[str, Any] = {"kind": "ServingPool", "metadata": {"generation": 1}}
    if status is not None:
        document["status"] = status
    assert health(document)[0] == "Progressing"


def test_every_health_of_argo_cd_is_reached_and_no_other() -> None:
    known = {"Healthy", "Progressing", "Degraded", "Suspended"}
    assert {state.argo for state in STATES} == known
    assert {health(state.document)[0] for state in STATES} == known


def test_the_patch_of_argocd_cm_carries_the_script_once_for_each_kind() -> None:
    keys = {f"resource.customizations.health.motley.dev_{kind}" for kind in KINDS}
    assert PATCH == {"data": dict.fromkeys(keys, SCRIPT)}
