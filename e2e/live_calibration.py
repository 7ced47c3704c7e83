"""The live demo's calibration: `motley calibrate` against both engines, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from e2e.cluster.state import ClusterError
from e2e.demo_view import View
from e2e.live_manifests import CONFIDENCE, STAGES, Calibrated
from e2e.live_questions import MAX_TOKENS, lines

ASKED_FLOOR = "75%"
GAIN = 0.10  # of the second model over the first, below which there is nothing to cascade
TIMEOUT_S = 300.0


def calibrated(view: View, folder: Path, urls: Mapping[str, str]) -> Calibrated:
    """Asks every model every question; says what came of it, refusals too."""
    questions, table, estimator = (
        folder / name for name in ("questions.jsonl", "table.csv", "estimator.json")
    )
    questions.write_text(lines(), encoding="utf-8")
    argv = [sys.executable, "-m", "motley_operator.cli.main", "calibrate", "-o", "json"]
    argv += ["--questions", str(questions), "--completions", "--stop", "\\n"]
    argv += ["--max-tokens", str(MAX_TOKENS), "--temperature", "0", "--concurrency", "4"]
    argv += ["--floor", ASKED_FLOOR, "--confidence", f"{CONFIDENCE:.0%}", "--quiet"]
    argv += ["--table", str(table), "--estimator", str(estimator)]
    for stage, url in urls.items():
        argv += ["--stage", f"{stage}={url}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode not in (0, 1):
        raise ClusterError(f"motley calibrate: {done.stderr[-1000:]}")
    report = json.loads(done.stdout)
    qualities = {one["name"]: float(one["quality"]) for one in report["stages"]}
    alone = ", ".join(f"{STAGES[n]} {100 * q:.0f} % right" for n, q in qualities.items())
    view.event(f"motley calibrate, {report['questions']} questions: {alone}")
    view.line(f"{report['verdict']['reason']}: {report['verdict']['message']}")
    first, second = qualities.values()
    view.expect(second - first >= GAIN, "the second model gains at least ten points")
    return Calibrated(
        table.read_text(encoding="utf-8"),
        estimator.read_text(encoding="utf-8"),
        qualities,
        report["verdict"],
    )
