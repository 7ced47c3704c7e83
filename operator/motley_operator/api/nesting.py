"""How deep YAML may be nested: its readers call themselves for each level, until the process ends."""

from __future__ import annotations

import re

import yaml

MOST_LEVELS = 200
_FAR_IN = re.compile(rf"^[ ?:-]{{{MOST_LEVELS + 1}}}", re.MULTILINE)
_OPENS = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSES = (yaml.SequenceEndEvent, yaml.MappingEndEvent)


def too_deep_at(text: str) -> int | None:
    """The line, from 1, at which a YAML text is nested deeper than MOST_LEVELS; None if nowhere.

    Blocks that deep begin as far to the right, and flows have as many brackets: a text with neither
    is not looked at. What is no YAML is left to whoever reads it.
    """
    if text.count("[") + text.count("{") <= MOST_LEVELS and not _FAR_IN.search(text):
        return None
    levels = 0
    try:
        # Events come from a parser with a stack of its own; only who composes them calls itself.
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            levels += isinstance(event, _OPENS) - isinstance(event, _CLOSES)
            if levels > MOST_LEVELS:
                mark = event.start_mark
                return int(mark.line) + 1 if mark is not None else 1
    except yaml.YAMLError:
        return None
    return None


def too_deep(line: int) -> str:
    """What is said of a text that is."""
    return f"is nested deeper than {MOST_LEVELS} levels at line {line}: write it flatter"
