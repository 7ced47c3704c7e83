"""What is wrong with a document: a finding per mistake, each with its place, rule and fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from motley_operator.errors import SpecError

Layer = Literal["yaml", "schema", "cel", "semantic"]
"""Who else refuses it: the YAML reader, the API server by schema or by CEL, or only Motley."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. `line` counts from 1 and is 0 where the document has no file.

    `reason` is the enumerated reason of the condition that says the same sentence on the cluster.
    """

    path: Path
    rule: str
    message: str
    layer: Layer
    reason: str = "InvalidSpec"
    resource: str = ""
    file: str = ""
    line: int = 0

    @property
    def field(self) -> str:
        """The field as people write it: `spec.stages[1].model.id`."""
        return render(self.path)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        what = f"{self.resource}: " if self.resource else ""
        return f"{place}{what}{self.field or 'document'}: {self.message} [{self.rule}]"


def render(path: Path) -> str:
    """A path in the API server's notation."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class InvalidDocument(SpecError):
    """A document that is not a valid resource; `findings` holds every mistake."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        super().__init__(first.reason, first.field, first.message + more)
