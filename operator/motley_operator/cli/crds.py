"""`motley crds`: the CustomResourceDefinitions, generated from the models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Adds the verb and its options."""
    parser = subparsers.add_parser(
        "crds",
        help="print the custom resource definitions",
        description="Prints the CustomResourceDefinitions as one YAML stream, ready for "
        "`kubectl apply --server-side -f -`.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--write", metavar="DIR", type=Path, help="write one file a kind into DIR")
    form.add_argument(
        "--check", metavar="DIR", type=Path, help="exit 1 where the files in DIR differ"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 1 where `--check` finds a difference."""
    from motley_operator.api.crd import crd_files

    files = crd_files()
    if args.write is not None:
        args.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (args.write / name).write_text(text, encoding="utf-8")
        return 0
    if args.check is not None:
        return _check(args.check, files)
    print("---\n".join(files.values()), end="")
    return 0


def _check(folder: Path, files: dict[str, str]) -> int:
    there = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.yaml")}
    wrong = [name for name, text in files.items() if there.get(name) != text]
    wrong += [f"{name} (no such kind any more)" for name in sorted(there.keys() - files.keys())]
    for name in wrong:
        print(
            f"{folder / name}: differs from the models: run `motley crds --write {folder}`",
            file=sys.stderr,
        )
    return 1 if wrong else 0
