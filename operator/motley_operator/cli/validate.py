"""`motley validate`: every mistake in a set of manifests, with file, line, field, rule and fix."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motley_operator.api.findings import Finding

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Adds the verb and its options."""
    parser = subparsers.add_parser(
        "validate",
        help="check resources: every error at once, with line numbers",
        description="Checks schema, CEL-equivalent rules and meaning of motley.dev resources. Other "
        "objects in the files are read for what resources refer to and left alone. `-` reads "
        "standard input.",
    )
    parser.add_argument(
        "-f", "--filename", dest="files", metavar="FILE|DIR", nargs="+", action="extend",
        required=True, help="files or folders",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 where all is well, 2 where anything is wrong."""
    from motley_operator.api.documents import validate_documents

    findings: list[Finding] = []
    paths = [Path(name) for name in args.files if name != "-"]
    try:
        if "-" in args.files:
            findings += validate_documents(sys.stdin.read())
        findings += validate_documents(paths)
    except (OSError, UnicodeDecodeError) as error:
        where = getattr(error, "filename", None) or "a file"
        print(f"motley: {where}: cannot be read: {error}: name a YAML file", file=sys.stderr)
        return 2
    _print(findings, getattr(args, "output", None) or ("table" if sys.stdout.isatty() else "json"))
    if not getattr(args, "quiet", False):
        _summarize(findings)
    return 2 if findings else 0


def _print(findings: list[Finding], form: str) -> None:
    rows = [
        {
            "file": f.file, "line": f.line, "resource": f.resource, "field": f.field,
            "rule": f.rule, "layer": f.layer, "reason": f.reason, "message": f.message,
        }
        for f in findings
    ]  # fmt: skip
    if form == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif form == "yaml":
        import yaml

        print(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=100), end="")
    else:
        for finding in findings:
            print(finding)


def _summarize(findings: list[Finding]) -> None:
    if not findings:
        print("motley: all resources are valid", file=sys.stderr)
        return
    files = len({f.file for f in findings})
    count = f"{len(findings)} mistake{'s' if len(findings) > 1 else ''}"
    print(f"motley: {count} in {files} file{'s' if files > 1 else ''}", file=sys.stderr)
