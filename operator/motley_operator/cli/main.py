"""The `motley` command's frame: which verbs there are, and how they end.

A verb is a module with `add_parser(subparsers)` and `run(args) -> int`. Only the module of the
verb that was asked for is imported, so `motley version` costs nothing of what `motley plan` needs.
A module may do without an output option: the frame adds `-o` and `--quiet` where it has none.

Exit status (CONTRACT 1): 0 done; 1 done, but the result falls short; 2 bad input; 3 no plan in
time. Bad input is a sentence on stderr, never a traceback.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from motley_planner.errors import MotleyError, SolverError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

PACKAGE = "motley_operator.cli"

# In the order of `motley --help`: verb, its module, one line.
VERBS: tuple[tuple[str, str, str], ...] = (
    ("plan", "plan", "plan resources on nodes from files, or on a live cluster, changing nothing"),
    ("explain", "explain", "what binds a plan, what was refused, and what a change is worth"),
    ("what-if", "what_if", "the plan after a change, and what would move"),
    ("draw", "draw", "a picture of a plan as SVG"),
    ("diff", "diff", "what would start, stop and move between two plans"),
    ("simulate", "simulate", "replay requests on a plan by discrete events"),
    ("solve", "solve", "the planner core on a bare column table"),
    ("predict", "predict", "the cost model on rows of configurations"),
    ("questions", "questions", "questions with known answers, drawn from templates"),
    ("calibrate", "calibrate", "score a cascade's stages on questions; thresholds, table"),
    ("validate", "validate", "check resources: every error at once, with line numbers"),
    ("strategies", "strategies", "list the planning strategies and their papers"),
    ("crds", "crds", "print the custom resource definitions"),
    ("schema", "schema", "print the JSON Schema of a file format"),
    ("operator", "operator_command", "run the operator"),
    ("gateway", "gateway", "run the gateway of a pool or cascade"),
    ("version", "version", "print the version"),
)
# A command makes very many values that stay until its end, and hardly a cycle.
_GC_THRESHOLDS = (200_000, 20, 100)
LONG_RUNNING = frozenset({"operator", "gateway"})

EPILOG = """\
exit status: 0 done; 1 done, but the result falls short; 2 bad input; 3 no plan in time
results go to stdout, progress and messages to stderr"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command line (`sys.argv[1:]` if None)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        gc.set_threshold(*_GC_THRESHOLDS)
    parser = build_parser(words)
    args = parser.parse_args(words)
    if args.run is None:
        parser.print_help()
        return 2 if words else 0
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except SolverError as error:
        return _complain(error, 3)
    except (MotleyError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader went away (`motley plan | head`): point stdout at nothing, so that the
            # interpreter's last flush does not complain, and end as a killed writer would.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return _complain(error, 2)
    except KeyboardInterrupt:
        return 130
    return status


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The argument parser, complete for the verb in `words` and a bare line for every other one."""
    parser = argparse.ArgumentParser(
        prog="motley",
        description="Plans models, cascades and RL jobs on whatever GPUs a cluster has.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=None)
    asked = next((word for word in words if not word.startswith("-")), None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for verb, module, line in VERBS:
        if verb != asked:
            subparsers.add_parser(verb, help=line)
        elif find_spec(f"{PACKAGE}.{module}") is None:
            parser.error(f"`motley {verb}` is not part of this build")
        else:
            _add_verb(subparsers, verb, module)
    return parser


def _add_verb(subparsers: Subparsers, verb: str, module: str) -> None:
    loaded = import_module(f"{PACKAGE}.{module}")
    loaded.add_parser(subparsers)
    chosen = subparsers.choices[verb]
    chosen.set_defaults(run=loaded.run)
    if verb in LONG_RUNNING:
        return
    with suppress(argparse.ArgumentError):
        chosen.add_argument(
            "-o",
            "--output",
            choices=("table", "json", "yaml"),
            help="form of the result (default: table on a terminal, json otherwise)",
        )
    with suppress(argparse.ArgumentError):
        chosen.add_argument("-q", "--quiet", action="store_true", help="no messages on stderr")


def _complain(error: Exception, status: int) -> int:
    print(f"motley: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
