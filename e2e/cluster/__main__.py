"""python -m e2e.cluster up | down | status | kubeconfig | nodes"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from e2e.cluster import nodes as node_files
from e2e.cluster.binaries import BinariesError
from e2e.cluster.local import LocalCluster, describe, warn
from e2e.cluster.state import ClusterError, default_directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.cluster",
        description="A real Kubernetes control plane on this machine: etcd, kube-apiserver, "
        "kube-controller-manager, kube-scheduler, and kwok in the place of kubelets.",
        epilog="Programs: $MOTLEY_CONTROL_PLANE_BIN, else the user's cache, else built once.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state",
        type=Path,
        default=None,
        metavar="DIR",
        help="the state directory (default: $MOTLEY_CLUSTER_STATE, else ~/.cache/motley/cluster)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser(
        "up", parents=[common], help="start it, wait until it is ready, print `export KUBECONFIG=`"
    )
    up.add_argument(
        "--nodes", type=Path, metavar="FILE", help="nodes to create: a List, a list, or shapes"
    )
    up.add_argument(
        "--real-node",
        action="store_true",
        help="with a node whose pods are containers: takes root and Debian packages",
    )
    verbs.add_parser("down", parents=[common], help="end what `up` started, leave nothing behind")
    verbs.add_parser("status", parents=[common], help="what runs; exit code 1 if it is not up")
    verbs.add_parser("kubeconfig", parents=[common], help="print the path of the kubeconfig")
    made = verbs.add_parser("nodes", help="print a List of nodes made from shapes, as YAML")
    made.add_argument(
        "shapes",
        nargs="+",
        metavar="SHAPE=COUNT",
        help=f"how many of which: {', '.join(node_files.SHAPES)}",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The exit code of one command."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "nodes":
            return _print_nodes(arguments.shapes)
        directory = (arguments.state or default_directory()).absolute()
        return _run(arguments, LocalCluster(directory))
    except (BinariesError, ClusterError, ValueError, OSError) as error:
        warn(str(error))
        return 2


def _run(arguments: argparse.Namespace, cluster: LocalCluster) -> int:
    if arguments.verb == "up":
        began = time.monotonic()
        nodes = node_files.read(arguments.nodes) if arguments.nodes else []
        was_up = cluster.is_up()
        cluster.up(nodes, with_real_node=arguments.real_node)
        word = "was up already" if was_up else f"is up after {time.monotonic() - began:.1f} s"
        warn(f"{word}; state and logs in {cluster.directory}")
        print(f"export KUBECONFIG={cluster.kubeconfig}")
        return 0
    if arguments.verb == "down":
        warn("is down" if cluster.down() else f"nothing to end in {cluster.directory}")
        return 0
    if arguments.verb == "kubeconfig":
        cluster.state()
        print(cluster.kubeconfig)
        return 0
    print(describe(cluster))
    return 0 if cluster.is_up() else 1


def _print_nodes(shapes: list[str]) -> int:
    counts = []
    for text in shapes:
        name, _, count = text.partition("=")
        if not count.isdigit() or name not in node_files.SHAPES:
            raise ValueError(
                f"{text!r}: write SHAPE=COUNT, a shape of {', '.join(node_files.SHAPES)}"
            )
        counts.append((name, int(count)))
    print(node_files.to_yaml(node_files.make_mix(counts)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
