"""Short tasks with known answers, as a person writes them for a small model: two examples, then one.

Plain completions, since one of the two models was never taught to chat. `motley calibrate` asks
them all of both models; the load of the demo draws from them. What the engines take for them is
measured here, for the profile.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MAX_TOKENS = 10
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Kind:
    """Tasks of one kind: examples, how one is put, and words with their answers (patterns)."""

    examples: str
    form: str
    tasks: str  # "word answer; word answer"; "_" is a space


KINDS = {
    "plural": Kind(
        "cat -> cats\nbox -> boxes\nchild -> children\n",
        "{} ->",
        "dog dogs; house houses; city cities; bus buses; man men; woman women; foot feet; tooth "
        "teeth; mouse mice; leaf leaves; knife knives; baby babies; car cars; dish dishes; wolf "
        "wolves; goose geese; story stories; tree trees; wish wishes; potato potatoes",
    ),
    "past": Kind(
        "go -> went\nplay -> played\nsee -> saw\n",
        "{} ->",
        "eat ate; run ran; walk walked; take took; give gave; write wrote; drink drank; swim swam; "
        "think thought; buy bought; sing sang; fly flew; talk talked; bring brought; sleep slept; "
        "drive drove; speak spoke; teach taught; come came; stop stopped",
    ),
    "opposite": Kind(
        "hot -> cold\nbig -> small\n",
        "{} ->",
        "up down; left right; good bad; day night; old (young|new); fast slow; high low; rich poor; "
        "open close; early late; wet dry; hard (soft|easy); happy (sad|unhappy); full empty; strong "
        "weak; long short; black white; light (dark|heavy); first last; win lose",
    ),
    "sum": Kind(
        "2 + 3 = 5\n4 + 4 = 8\n10 + 7 = 17\n",
        "{} =",
        "3_+_1 4; 9_+_5 14; 4_+_9 13; 6_+_6 12; 5_+_8 13; 7_+_2 9; 8_+_9 17; 1_+_8 9; 9_+_9 18; "
        "3_+_4 7; 6_+_7 13; 2_+_9 11; 5_+_5 10; 7_+_8 15; 8_+_3 11; 6_+_2 8; 4_+_7 11; 1_+_5 6",
    ),
    "product": Kind(
        "3 x 4 = 12\n5 x 2 = 10\n",
        "{} =",
        "2_x_9 18; 7_x_6 42; 3_x_3 9; 8_x_4 32; 6_x_6 36; 9_x_5 45; 4_x_4 16; 7_x_3 21; 2_x_8 16; "
        "9_x_9 81; 5_x_7 35; 6_x_8 48; 3_x_9 27; 8_x_8 64; 4_x_6 24; 7_x_7 49; 5_x_5 25; 2_x_6 12; "
        "9_x_4 36; 8_x_3 24; 6_x_5 30; 7_x_9 63; 3_x_6 18; 4_x_5 20",
    ),
    "french": Kind(
        "English: water\nFrench: eau\nEnglish: house\nFrench: maison\n",
        "English: {}\nFrench:",
        "dog chien; cat chat; bread pain; book livre; milk lait; sun soleil; night nuit; red rouge; "
        "black noir; mother mère; father père; friend ami; city ville; day jour; hand main; head "
        "tête; tree arbre; fish poisson; horse cheval; king roi; door porte; street rue",
    ),
}


def _questions() -> tuple[tuple[str, str], ...]:
    """Prompt and pattern of every task."""
    found = []
    for kind in KINDS.values():
        for task in kind.tasks.split(";"):
            word, answer = task.split()
            asked = kind.form.format(word.replace("_", " "))
            found.append((kind.examples + asked, rf"^\s*{answer}\b"))
    return tuple(found)


QUESTIONS = _questions()


@dataclass(frozen=True, slots=True)
class Timing:
    """What one answer took."""

    prompt_tokens: int
    first_token_s: float


def lines() -> str:
    """The questions as `motley calibrate` reads them."""
    return "".join(
        json.dumps({"id": f"q{n:03d}", "prompt": prompt, "check": check_of(pattern)}) + "\n"
        for n, (prompt, pattern) in enumerate(QUESTIONS)
    )


def check_of(pattern: str) -> dict[str, str]:
    """The check of an answer."""
    return {"type": "Regex", "pattern": f"(?i){pattern}"}


def body_of(prompt: str, model: str = "", stream: bool = False) -> dict[str, Any]:
    """The request for one question."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stop": ["\n"],
        "stream": stream,
    }


def complete(url: str, prompt: str, model: str) -> str:
    """What an engine or a gateway makes of a prompt. Raises: OSError if it gives no answer."""
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body_of(prompt, model)).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return str(json.loads(answer.read())["choices"][0]["text"])


def is_right(text: str, pattern: str) -> bool:
    """Whether an answer is the known one."""
    return re.search(pattern, text, re.IGNORECASE) is not None


def ask(url: str, number: int) -> Timing:
    """Asks an engine one question."""
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({**body_of(QUESTIONS[number][0]), "logprobs": 1}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        told = json.loads(answer.read())
    return Timing(
        prompt_tokens=told["usage"]["prompt_tokens"],
        first_token_s=told["timings"]["prompt_ms"] / 1e3,
    )


def busy_rate(url: str, clients: int, seconds: float, cpu_s: Callable[[], float]) -> float:
    """Requests per CPU second of an engine that `clients` keep busy with questions of all kinds.

    An engine here has one thread: that is what a core of its own would do, whoever shares it now.
    """
    began, before = time.monotonic(), cpu_s()

    def one(start: int) -> int:
        done = 0
        while time.monotonic() - began < seconds:
            ask(url, (start + 37 * done) % len(QUESTIONS))
            done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        count = sum(pool.map(one, range(clients)))
    return count / max(0.01, cpu_s() - before)
