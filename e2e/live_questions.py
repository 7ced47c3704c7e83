"""Short questions with known answers, asked of an engine: scores, qualities and timings.

Both small models are asked the same, as plain completions after two examples, since one of them
was never taught to chat. What comes out is a calibration table and a profile, measured here.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from motley_runtime.gateway.scoring import score

MAX_TOKENS = 10
TIMEOUT_S = 120.0
EXAMPLES = (
    "Answer in one or two words.\n"
    "Q: What is the capital of Italy?\nA: Rome\n"
    "Q: Which gas do plants take in?\nA: carbon dioxide\n"
)
QUESTIONS = (
    ("What is the capital of France?", "paris"),
    ("What is the capital of Japan?", "tokyo"),
    ("What is the capital of Spain?", "madrid"),
    ("What is the capital of Germany?", "berlin"),
    ("What is the capital of Egypt?", "cairo"),
    ("What is the capital of Russia?", "moscow"),
    ("What is the capital of China?", "beijing"),
    ("What is the capital of Canada?", "ottawa"),
    ("What is the capital of Australia?", "canberra"),
    ("What is the capital of Norway?", "oslo"),
    ("What is the capital of Greece?", "athens"),
    ("What is the capital of Portugal?", "lisbon"),
    ("What is the capital of Kenya?", "nairobi"),
    ("What is the capital of Peru?", "lima"),
    ("What is the capital of Cuba?", "havana"),
    ("Which planet is closest to the Sun?", "mercury"),
    ("Which planet is known as the Red Planet?", "mars"),
    ("Which planet is the largest?", "jupiter"),
    ("What is the chemical symbol of gold?", r"\bau\b"),
    ("What is the chemical symbol of iron?", r"\bfe\b"),
    ("What is the chemical formula of water?", "h2o"),
    ("Which gas do humans need to breathe?", "oxygen"),
    ("Which gas is most of the air?", "nitrogen"),
    ("What is frozen water called?", "ice"),
    ("How many days are in a week?", r"seven|\b7\b"),
    ("How many months are in a year?", r"twelve|\b12\b"),
    ("How many legs does a spider have?", r"eight|\b8\b"),
    ("How many sides does a triangle have?", r"three|\b3\b"),
    ("What is 2 plus 2?", r"four|\b4\b"),
    ("What is 5 plus 3?", r"eight|\b8\b"),
    ("What is 10 minus 4?", r"six|\b6\b"),
    ("What is 3 times 3?", r"nine|\b9\b"),
    ("What is 7 times 8?", r"\b56\b"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of up?", "down"),
    ("Which animal barks?", "dog"),
    ("Which color do you get from blue and yellow?", "green"),
    ("What color is the sky on a clear day?", "blue"),
    ("Which ocean is the largest?", "pacific"),
    ("Who wrote Romeo and Juliet?", "shakespeare"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer: how sure the model was, whether it was right, what it took."""

    score: float
    quality: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float
    per_token_s: float


def body_of(question: str, model: str = "", stream: bool = False) -> dict[str, Any]:
    """The request for one question."""
    return {
        "model": model,
        "prompt": f"{EXAMPLES}Q: {question}\nA:",
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stop": ["\n"],
        "stream": stream,
    }


def is_right(text: str, pattern: str) -> bool:
    """Whether an answer holds the known one."""
    return re.search(pattern, text.lower()) is not None


def ask(url: str, number: int) -> Outcome:
    """Asks an engine one question."""
    question, pattern = QUESTIONS[number]
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({**body_of(question), "logprobs": 1}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        told = json.loads(answer.read())
    timings = told["timings"]
    return Outcome(
        score=score(told) or 0.0,
        quality=float(is_right(told["choices"][0]["text"], pattern)),
        prompt_tokens=told["usage"]["prompt_tokens"],
        output_tokens=max(1, told["usage"]["completion_tokens"]),
        first_token_s=timings["prompt_ms"] / 1e3,
        per_token_s=timings["predicted_per_token_ms"] / 1e3,
    )


def ask_all(url: str) -> list[Outcome]:
    """Every question, one after the other."""
    return [ask(url, number) for number in range(len(QUESTIONS))]


def busy_rate(url: str, clients: int, seconds: float) -> float:
    """Requests/s of an engine with `clients` asking all the time."""
    began, count = time.monotonic(), 0

    def one(start: int) -> int:
        done = 0
        while time.monotonic() - began < seconds:
            ask(url, (start + done) % len(QUESTIONS))
            done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        count = sum(pool.map(one, range(clients)))
    return count / (time.monotonic() - began)


def calibration_table(stages: Sequence[tuple[str, Sequence[Outcome]]]) -> str:
    """The CSV that `quality.calibration` reads: a row a question, four columns a stage."""
    columns = ("score", "quality", "prompt_tokens", "output_tokens")
    lines = [",".join(["question_id", *(f"{n}:{c}" for n, _ in stages for c in columns)])]
    for number in range(len(QUESTIONS)):
        cells = [f"q{number:02d}"]
        for _, outcomes in stages:
            one = outcomes[number]
            cells += [f"{one.score:.4f}", f"{one.quality:.0f}"]
            cells += [str(one.prompt_tokens), str(one.output_tokens)]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def mean(outcomes: Sequence[Outcome], what: str) -> float:
    """The mean of one figure."""
    return sum(getattr(one, what) for one in outcomes) / len(outcomes)
