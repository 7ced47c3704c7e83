"""`python -m tests.bench.examples`: CPU seconds of `motley plan -f examples` on 200 nodes; wanted are 2.

The whole process counts, imports and the solver's process with it. As for people, what was compiled
once is kept; the first of the runs, which compiles, is left out.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from e2e.cluster.nodes import make_nodes

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPES = ("h100", "a100-80", "l40s", "l4")
RUNS = 5


def used_s(folder: Path, runs: int = RUNS) -> list[float]:
    """CPU seconds of each run after the first. Raises: RuntimeError where one does not plan all."""
    nodes = [node for shape in SHAPES for node in make_nodes(shape, 50)]
    path = folder / "nodes.yaml"
    path.write_text(yaml.safe_dump_all(nodes))
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "motley_operator.cli.main", "plan", "-f", str(EXAMPLES)]
    command += ["--nodes", str(path), "-o", "json", "-q"]
    found = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0 or len(json.loads(done.stdout)["slices"]) != 3:
            raise RuntimeError(f"not all was planned: {done.stderr}")
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return found[1:]


def main() -> None:
    """Prints the least, the median and the most."""
    with tempfile.TemporaryDirectory() as folder:
        found = sorted(used_s(Path(folder)))
    print(f"CPU s: least {found[0]:.2f}, median {found[len(found) // 2]:.2f}, most {found[-1]:.2f}")


if __name__ == "__main__":
    main()
