"""`motley schema NAME`: JSON Schemas of the resources and of the files that outsiders rely on."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Adds the verb and its options."""
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of a file format",
        description="Prints the JSON Schema of a resource (servingpool, ...) or of a file "
        "(solve-table, ...); without a name, lists the names.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="resource or file format")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 2 for a name that does not exist."""
    schemas = names()
    if args.name is None:
        print("\n".join(schemas))
        return 0
    title = schemas.get(args.name.lower())
    if title is None:
        known = ", ".join(schemas)
        print(f"motley: there is no schema {args.name}: use one of {known}", file=sys.stderr)
        return 2
    schema = schema_of(args.name.lower())
    if getattr(args, "output", None) == "yaml":
        import yaml

        print(yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=100), end="")
    else:
        print(json.dumps(schema, indent=2, ensure_ascii=False))
    return 0


def names() -> dict[str, str]:
    """Every schema's name with its title."""
    from motley_operator.api import RESOURCES
    from motley_operator.api.fileschemas import FILES

    found = {r.names.singular: f"The resource {r.names.kind}" for r in RESOURCES}
    found |= {name: title for name, (title, _) in FILES.items()}
    outputs = {
        "plan": "`motley plan -o json`",
        "simulation": "a resource of `motley simulate -o json`",
    }
    return found | {name: f"Output of {what}" for name, what in outputs.items()}


def schema_of(name: str) -> dict[str, Any]:
    """The schema itself. Raises: KeyError for an unknown name."""
    from motley_operator.api import RESOURCES
    from motley_operator.api.fileschemas import file_schema, table

    for resource in RESOURCES:
        if resource.names.singular == name:
            body = resource.model_json_schema(by_alias=True)
            return table(name, resource.names.kind, {k: v for k, v in body.items() if k != "title"})
    if name == "plan":
        from motley_operator.cli.plan_file import schema

        return schema()
    if name == "simulation":
        from pydantic import TypeAdapter

        from motley_planner.simulator import Report

        body = TypeAdapter(Report).json_schema(mode="serialization")
        return table(name, names()[name], {k: v for k, v in body.items() if k != "title"})
    return file_schema(name)
