"""`make demo-live`: a cascade of two real language models, served, hurt and re-planned under load.

Local control plane, three nodes whose pods are processes of this machine, the operator, the real
gateway, llama.cpp engines. Both models are measured first (speed) and calibrated (`motley
calibrate`: answers and scores), and the planner decides what each is worth; then questions come in
while an engine is killed, the floor is raised, so that thresholds change under way, and a node is
lost with what it ran.

    python -m e2e.live [--seconds 60] [--state DIR] [--picture FILE.svg] [--real-node]

Nodes say that they have T4s and L40S', because the planner plans GPUs and what they cost: small
models are run on cheap ones. The profile with which it plans is what a core of this machine did a
moment before. Ends with 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from e2e import live_story, real_story
from e2e.cluster import node_needs, processes
from e2e.cluster.binaries import BinariesError
from e2e.cluster.components import free_ports
from e2e.cluster.local import LocalCluster, wait_for
from e2e.cluster.nodes import Shape, make_nodes
from e2e.cluster.process_nodes import ProcessNodes, Program
from e2e.cluster.state import ClusterError
from e2e.demo_api import Document
from e2e.demo_view import View
from e2e.engines import models
from e2e.engines.models import MODELS, ModelsError
from e2e.live_calibration import calibrated
from e2e.live_judging import judge, phases
from e2e.live_manifests import BUSY, STAGES, Calibrated, Measured, mean
from e2e.live_picture import draw
from e2e.live_questions import QUESTIONS, ask, busy_rate
from e2e.live_story import Live, Told
from e2e.motley import Installation

SMALL = Shape("Tesla-T4", 1, 15360, 8, 32, 225, "g4dn.2xlarge")
LARGE = Shape("NVIDIA-L40S", 1, 46068, 8, 64, 450, "g6e.2xlarge")
WEIGHTS = "/models"  # where engine pods mount them


def missing() -> str:
    """Why no real model can run here; "" where it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp (llama.cpp as a library) is not installed"
    try:
        for name in MODELS:
            models.ensure(name)
    except (ModelsError, OSError) as error:
        return str(error)
    return ""


def main(argv: list[str] | None = None) -> int:
    """0 where everything held, 1 where something did not, 2 where it could not run."""
    parser = argparse.ArgumentParser(prog="python -m e2e.live", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of load; default: 60")
    parser.add_argument("--state", type=Path, metavar="DIR", help="default: a temporary folder")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw what happened (SVG)")
    parser.add_argument("--real-node", action="store_true", help="pods are containers; takes root")
    args = parser.parse_args(argv)
    reason = missing() or (node_needs.missing() if args.real_node else "")
    if reason:
        print(f"demo-live: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="motley-live-") as folder:
        try:
            state = (args.state or Path(folder)).absolute()
            return run(state, args.seconds, args.picture, args.real_node)
        except (BinariesError, ClusterError, ModelsError, OSError) as error:
            print(f"demo-live: {error}", file=sys.stderr)
            return 2


def run(
    folder: Path, seconds: float, picture: Path | None = None, on_real_node: bool = False
) -> int:
    """The whole demo in a folder: 0 or 1."""
    folder.mkdir(parents=True, exist_ok=True)
    view = View()
    view.title("Two small language models, measured on one thread of this machine each")
    stages, table = measured(view, folder)
    play = real_story.play if on_real_node else _play
    told = play(view, stages, table, folder, seconds)
    if picture is not None:
        picture.write_text(draw(told, phases(table.table, told)), encoding="utf-8")
        view.line(f"picture: {picture}")
    view.title("Summary")
    for what, value in view.facts:
        view.line(f"{what:<52} {value}")
    for sentence in view.failures:
        view.line(f"did not hold: {sentence}")
    view.line("" if view.failures else "Everything held.")
    return 1 if view.failures else 0


def _play(
    view: View, stages: dict[str, Measured], table: Calibrated, folder: Path, seconds: float
) -> Told:
    """The demo on nodes whose pods are processes."""
    cluster = LocalCluster(folder / "cluster")
    nodes = ProcessNodes(str(cluster.kubeconfig), folder / "pods", _programs(folder, cluster))
    installation: Installation | None = None
    try:
        cluster.up()
        nodes.add(make_nodes(SMALL, 3, prefix="small"))
        nodes.add(make_nodes(LARGE, 4, prefix="large"))
        nodes.start()
        installation = Installation.install(cluster.kubeconfig, folder)
        installation.start()
        view.event("control plane, operator and seven nodes run")
        live = Live(view, installation, nodes, stages, table)
        told = live_story.tell(live, seconds)
        judge(live, told)
        return told
    finally:
        if installation is not None:
            installation.kill()
            installation.api.close()
        nodes.stop()
        cluster.down()


def measured(view: View, folder: Path) -> tuple[dict[str, Measured], Calibrated]:
    """Both models kept busy for a moment, one after the other, and asked all questions."""
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        urls = {}
        for stage, name in STAGES.items():
            engine = Engine(name, folder / f"measure-{name}.log")
            url = urls[stage] = stack.enter_context(engine)
            timings = [ask(url, number) for number in range(0, len(QUESTIONS), 13)]
            rate = busy_rate(url, BUSY[0], 3.0, engine.cpu_s)
            prompts = mean([one.prompt_tokens for one in timings])
            firsts = sorted(one.first_token_s for one in timings)
            found[stage] = Measured(prompts, firsts[len(firsts) // 2], rate)
            view.event(f"{name}: {rate:.1f} requests per CPU second, {BUSY[0]} at a time")
        table = calibrated(view, folder, urls)
    return found, table


@dataclass(slots=True)
class Engine:
    """One engine outside of any cluster."""

    name: str
    log: Path
    _process: processes.Process | None = field(default=None, init=False)

    def __enter__(self) -> str:
        port = free_ports(("engine",))["engine"]
        argv = [sys.executable, "-m", "e2e.engines.llamacpp", "--model"]
        argv += [str(models.path_of(self.name)), "--port", str(port), "--parallel", str(BUSY[0])]
        self._process = processes.spawn([*argv, "--kv-unified"], self.log)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(url), 60.0, f"{self.name} to load ({self.log})")
        return url

    def cpu_s(self) -> float:
        """CPU seconds it has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            processes.stop(self._process, grace_s=2.0)


def _answers(url: str) -> bool:
    try:
        ask(url, 0)
        return True
    except OSError:
        return False


def _programs(folder: Path, cluster: LocalCluster) -> dict[str, Program]:
    """What stands for the images: the gateway of this checkout, and the small engine."""

    def gateway(pod: Document, container: Document) -> Sequence[str]:
        account = live_story.account_of(pod, cluster.kubeconfig, folder / "accounts")
        server = live_story.server_of(cluster.kubeconfig)
        hosts = ["--hosts", str(folder / "pods" / "hosts")]
        where = ["--account", str(account), "--server", server]
        module = "motley_operator.cli.main"
        frame = [sys.executable, "-m", "e2e.engines.container", *hosts, *where, module]
        state = folder / "gateway-state" / pod["metadata"]["name"]
        state.mkdir(parents=True, exist_ok=True)
        mounts = {m["mountPath"]: str(state) for m in container.get("volumeMounts", [])}
        return [*frame, *(mounts.get(word, word) for word in container["args"])]

    def engine(pod: Document, container: Document) -> Sequence[str]:
        mount = next(m for m in container["volumeMounts"] if m["mountPath"] == WEIGHTS)
        weights = str(models.path_of(mount["subPath"].removesuffix(".gguf")))
        args = [weights if word == WEIGHTS else word for word in container["args"]]
        return [sys.executable, "-m", "e2e.engines.llamacpp", *args]

    return {"motley": gateway, "/app/llama-server": engine}


if __name__ == "__main__":
    sys.exit(main())
