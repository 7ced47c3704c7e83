"""The journal: one JSON line an answer, written as it comes, so that a run can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO, Self

import orjson

Key = tuple[str, str, str]  # stage, question, mark


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stage made of a question. `wrong` names a hard failure; such an answer scores nothing.

    `mark` tells whether question, model and settings are those that are asked now.
    """

    stage: str
    question: str
    mark: str
    text: str
    quality: float
    features: Mapping[str, float] | None
    wrong: str | None
    prompt_tokens: int
    output_tokens: int
    seconds: float

    @property
    def key(self) -> Key:
        """Which question of which stage it answers."""
        return self.stage, self.question, self.mark


class Journal:
    """Answers so far; those of other questions or settings stay in the file and are left alone."""

    def __init__(self, path: Path | None) -> None:
        """Reads what is there. Raises: OSError; ValueError where it is no journal."""
        self._path = path
        self._answers: dict[Key, Answer] = {}
        self._file: BinaryIO | None = None
        if path is not None and path.exists():
            for answer in _read(path):
                self._answers[answer.key] = answer

    def __enter__(self) -> Self:
        if self._path is not None:
            _drop_torn_line(self._path)
            self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, key: Key) -> Answer | None:
        """The answer that is there already."""
        return self._answers.get(key)

    def add(self, answer: Answer) -> None:
        """Keeps an answer; a crash afterwards does not lose it."""
        self._answers[answer.key] = answer
        if self._file is not None:
            self._file.write(orjson.dumps(asdict(answer)) + b"\n")
            self._file.flush()


def _read(path: Path) -> Iterator[Answer]:
    names = {field.name for field in fields(Answer)}
    raw = path.read_bytes()
    lines = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if number == len(lines):
                return  # torn by a crash in mid-write; it is asked again
            raise ValueError(f"{path}, line {number}: is no journal of answers") from error
        if not isinstance(document, dict) or set(document) != names:
            raise ValueError(f"{path}, line {number}: is no journal of answers")
        yield Answer(**document)


def _drop_torn_line(path: Path) -> None:
    """Cuts a last line without its end, so that the next one does not stick to it."""
    if not path.exists():
        return
    raw = path.read_bytes()
    if raw and not raw.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(raw.rfind(b"\n") + 1)
