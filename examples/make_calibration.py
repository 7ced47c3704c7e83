"""Writes 41-support-calibration.yaml: a calibration table with the shape of real ones, made up.

One row a question of a support cascade, two stages. A question has a difficulty; a model's answer is
worth less the further the difficulty is beyond its skill; its own score follows that worth with noise,
so escalating low scores pays. Run from the repository root: `python examples/make_calibration.py`.
"""  # noqa: INP001

from __future__ import annotations

import math
import random
from pathlib import Path

ROWS, SEED = 400, 20260401
STAGES = {"small": (0.56, 0.16), "large": (0.84, 0.14)}  # skill, noise of the score
TARGET = Path(__file__).parent / "41-support-calibration.yaml"

HEAD = """\
# Made by `python examples/make_calibration.py` (fixed seed): replace it by your own measurements.
apiVersion: v1
kind: ConfigMap
metadata:
  name: support-calibration
  namespace: team-a
  labels: {app.kubernetes.io/part-of: motley-examples}
data:
  table.csv: |
"""


def make_table() -> str:
    """The table as CSV text."""
    source = random.Random(SEED)
    fields = ("score", "quality", "prompt_tokens", "output_tokens")
    lines = [",".join(["question_id", *(f"{s}:{f}" for s in STAGES for f in fields)])]
    for i in range(ROWS):
        difficulty = source.betavariate(1.6, 2.0)
        prompt = round(source.lognormvariate(math.log(900) - 0.08, 0.4))
        cells = [f"q{i:04d}"]
        for skill, noise in STAGES.values():
            worth = 1.0 / (1.0 + math.exp((difficulty - skill) / 0.09))
            quality = min(1.0, max(0.0, worth + source.gauss(0.0, 0.08)))
            score = min(1.0, max(0.0, 0.15 + 0.8 * quality + source.gauss(0.0, noise)))
            output = round(source.lognormvariate(math.log(220) - 0.08, 0.4))
            cells += [f"{score:.3f}", f"{quality:.3f}", str(prompt), str(output)]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def make_config_map() -> str:
    """The table inside its ConfigMap."""
    return HEAD + "".join(f"    {line}\n" for line in make_table().splitlines())


if __name__ == "__main__":
    TARGET.write_text(make_config_map(), encoding="utf-8")
