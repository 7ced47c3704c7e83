"""`make demo`: real resources on a real API server become a plan, pods, and a new plan.

Twelve mixed nodes; examples/ applied; a node with running replicas deleted; nodes added; a budget
tightened. Every chapter ends with what must hold, and one that does not makes the demo end with 1.

    python -m e2e.demo [--keep] [--down]

MOTLEY_KUBECONFIG names a cluster of yours instead; kwok must run there, since the nodes have no
machines behind them. What the demo made there it deletes in the end, and only that; with --keep it
stays. The node it takes away is one of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e import demo_operator, demo_story
from e2e.cluster.binaries import BinariesError
from e2e.cluster.local import LocalCluster
from e2e.cluster.state import ClusterError
from e2e.demo_api import Api, Refused
from e2e.demo_story import Demo
from e2e.demo_view import View

STATE = Path(__file__).parent.parent / ".demo"
ENDS_WITH_ALL_WELL = "Everything held."


def main(argv: list[str] | None = None) -> int:
    """0 if everything held, 1 if something did not, 2 if the demo could not run."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--keep", action="store_true", help="leave the cluster and operator running"
    )
    parser.add_argument("--down", action="store_true", help="stop what an earlier --keep left")
    parser.add_argument("--state", type=Path, default=STATE, metavar="DIR", help="default: .demo")
    args = parser.parse_args(argv)
    folder = args.state.absolute()
    try:
        if args.down:
            return _down(folder)
        return _run(folder, args.keep)
    except (BinariesError, ClusterError, Refused, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _down(folder: Path) -> int:
    stopped = demo_operator.stop(folder)
    stopped = LocalCluster(folder / "cluster").down() or stopped
    print("stopped" if stopped else "nothing runs")
    return 0


def _run(folder: Path, keep: bool) -> int:
    view = View()
    with _cluster(folder, keep, view) as kubeconfig:
        demo = Demo(folder, kubeconfig, Api(kubeconfig), view)
        try:
            demo_story.tell(demo)
        finally:
            if not keep:
                demo_operator.stop(folder)
                _leave_nothing(demo)
            demo.api.close()
        _summary(demo, keep)
    if not keep:
        print(
            f"\n  Stopped; nothing of it runs any more. Log of the operator: {folder}/operator.log"
        )
    return 1 if view.failures else 0


def _leave_nothing(demo: Demo) -> None:
    """Deletes what the demo made on a cluster of yours; the local one is thrown away whole."""
    if os.environ.get("MOTLEY_KUBECONFIG"):
        count = demo.api.delete_created()
        demo.view.event(f"deleted the {count} objects that the demo had made")


@contextmanager
def _cluster(folder: Path, keep: bool, view: View) -> Iterator[str]:
    """The kubeconfig of the cluster to use; a local one is taken down again unless kept."""
    folder.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("MOTLEY_KUBECONFIG")
    demo_operator.stop(folder)  # of a kept run; the cluster is begun anew, too
    (folder / "operator.log").unlink(missing_ok=True)
    if given:
        yield given
        return
    cluster = LocalCluster(folder / "cluster")
    cluster.down()
    view.title("A Kubernetes control plane: etcd, API server, controllers, scheduler, kwok")
    try:
        cluster.up()
        view.event(f"up; state and logs in {cluster.directory}")
        yield str(cluster.kubeconfig)
    finally:
        if not keep:
            cluster.down()


def _summary(demo: Demo, keep: bool) -> None:
    view = demo.view
    view.title("Summary")
    view.fact("the whole demo", f"{time.monotonic() - view.began:.0f} s")
    for what, value in view.facts:
        view.line(f"{what:<50} {value}")
    view.line()
    for sentence in view.failures:
        view.line(f"did not hold: {sentence}")
    if view.failures:
        view.line(f"the end of {demo.folder}/operator.log:")
        print(demo_operator.log_tail(demo.folder))
    else:
        view.line(ENDS_WITH_ALL_WELL)
    view.line()
    if keep:
        view.line("It still runs. To go on by hand:")
        view.line(f"  export KUBECONFIG={demo.kubeconfig}")
        view.line("  kubectl get motley -A          # or: kubectl describe modelcascade -A")
        view.line("  make demo DEMO=--down          # stops it")
    else:
        view.line("To look around by hand: make demo DEMO=--keep")


if __name__ == "__main__":
    sys.exit(main())
