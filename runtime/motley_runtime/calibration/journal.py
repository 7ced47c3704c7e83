"""The journal: one JSON line an answer, written as it comes, so that a run can be taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

import orjson

Key = tuple[str, str, str]  # stage, question, mark
_BEGINNING = b'{"stage":"'
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "stage": str, "question": str, "mark": str, "text": str, "quality": (int, float),
    "prompt_tokens": int, "output_tokens": int, "seconds": (int, float),
}  # fmt: skip


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
        self._torn_bytes = 0
        self._is_unended = False
        if path is not None and path.exists():
            self._read(path)

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._path.open("ab")
            # The next line may not stick to one that has no end.
            if self._torn_bytes:
                self._file.truncate(self._file.tell() - self._torn_bytes)
            elif self._is_unended:
                self._file.write(b"\n")
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

    def _read(self, path: Path) -> None:
        *lines, tail = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._keep(_answer(line, path, number))
        if not tail:
            return
        if _can_be_torn(tail, bool(self._answers)):
            self._torn_bytes = len(tail)  # by a crash in mid-write; it is asked again
        else:
            self._keep(_answer(tail, path, len(lines) + 1))
            self._is_unended = True

    def _keep(self, answer: Answer) -> None:
        self._answers[answer.key] = answer


def _can_be_torn(tail: bytes, follows_answers: bool) -> bool:
    """Whether a last line without its end is a part of an answer; any other text is somebody's."""
    try:
        orjson.loads(tail)
    except orjson.JSONDecodeError:
        size = min(len(tail), len(_BEGINNING))
        return follows_answers or tail[:size] == _BEGINNING[:size]
    return False


def _answer(line: bytes, path: Path, number: int) -> Answer:
    try:
        document = orjson.loads(line)
        answer = Answer(**document)
        right = all(isinstance(getattr(answer, name), kind) for name, kind in _TYPES.items())
    except (orjson.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}, line {number}: is no journal of answers") from error
    if not right:
        raise ValueError(f"{path}, line {number}: is no journal of answers")
    return answer
