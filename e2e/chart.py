"""The chart's objects: as Helm renders them, and as the plain manifest has them.

Both are read once and shared: nobody may edit what they get. libyaml reads them where it is there,
which takes a tenth of a second instead of a whole one.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from e2e import helm

CHART = Path(__file__).parents[1] / "charts" / "motley"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Document = dict[str, Any]


@cache
def documents(text: str) -> tuple[Document, ...]:
    """The documents of a manifest, without empty ones."""
    return tuple(document for document in yaml.load_all(text, Loader=_LOADER) if document)


@cache
def render(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `helm template` prints, and its exit status. Raises: HelmError where there is no helm."""
    command = ["template", "motley", str(CHART), "--namespace", "motley-system"]
    command.append("--kube-version=1.35.0")  # not whatever this helm was built for
    return helm.run(*command, *arguments)


def rendered(*arguments: str) -> tuple[Document, ...]:
    """The objects of the chart with arguments of `helm template`."""
    done = render(*arguments)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def shipped(*kinds: str) -> tuple[Document, ...]:
    """The objects of the plain manifest; with `kinds`, those of these kinds."""
    found = documents((CHART / "install.yaml").read_text())
    return tuple(d for d in found if not kinds or d["kind"] in kinds)
