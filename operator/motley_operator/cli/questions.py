"""`motley questions --seed N --count N`: question sets with known answers, made from templates."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from motley_operator.cli.output import InputError, columns, emit

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_runtime.questions import Template

DESCRIPTION = """\
Prints questions of hydrology, atmospheric dynamics and physics, geophysics and oceanography with
their answers, drawn anew from templates. The same seed gives the same questions.

  motley questions --seed 7 --count 200 -o jsonl > questions.jsonl
  motley calibrate --questions questions.jsonl --stage small=http://... --stage large=http://... ..."""


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "questions",
        help="questions with known answers, drawn from templates",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default 0)")
    parser.add_argument("--count", type=_count, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--field", action="append", metavar="NAME", help="only of this field")
    parser.add_argument(
        "--form", choices=("choice", "number"), default="choice", help="four options, or open"
    )
    parser.add_argument("--list", action="store_true", help="list the templates instead")
    parser.add_argument(
        "-o", "--output", choices=("jsonl", "json", "yaml", "table"), help="form (default jsonl)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the set; 0."""
    # Imported here: units and templates take a third of a second.
    from motley_runtime.questions import document, question_set

    fields = _fields(args.field)
    if args.list:
        rows = [(field, each.name) for field, templates in fields.items() for each in templates]
        args.output = None if args.output == "jsonl" else args.output
        listed = [{"field": field, "template": name} for field, name in rows]
        emit(args, listed, lambda: columns([("FIELD", "TEMPLATE"), *rows]))
        return 0
    made = question_set(fields, args.seed, args.count)
    if args.output in (None, "jsonl"):
        for question in made:
            print(json.dumps(document(question, args.form), ensure_ascii=False))
        return 0
    lines = [document(question, args.form) for question in made]
    rows = [(str(each["id"]), str(each["check"]["answer"])) for each in lines]
    emit(args, lines, lambda: columns([("QUESTION", "ANSWER"), *rows]))
    return 0


def _fields(wanted: list[str] | None) -> dict[str, tuple[Template, ...]]:
    from motley_runtime.questions import FIELDS

    for name in wanted or ():
        if name not in FIELDS:
            raise InputError("--field", f"there is no field {name!r}: use {', '.join(FIELDS)}")
    return {name: each for name, each in FIELDS.items() if not wanted or name in wanted}


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1,000,000")
    return int(text)
