"""What the documents point at is there: files, headings, commands and make targets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from motley_operator.cli.main import VERBS, build_parser

ROOT = Path(__file__).parent.parent
ASIDE = {".venv", ".demo", "node_modules", ".git"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not ASIDE.intersection(part.name for part in path.relative_to(ROOT).parents)
    and not path.relative_to(ROOT).parts[0].startswith((".", "shared"))
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
# Documented in the contract, and said to be yet to come wherever they are named.
TO_COME = {"train", "store"}


def name_of(page: Path) -> str:
    """The page's path from the root, for test ids."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+\s+(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip() for heading in headings)
    return {word.lower().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_resolves(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_motley_command_that_a_page_shows_exists(page: Path) -> None:
    known = {verb for verb, _, _ in VERBS}
    shown = set(re.findall(r"(?<![\w/-])motley ([a-z][a-z-]+)(?=[\s`])", _commands(page)))
    assert shown - known - TO_COME == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_a_page_shows_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<![\w-])make ([a-z]+)\b", _commands(page))) - targets == set()


def _commands(page: Path) -> str:
    """The page's code: lines of fenced blocks that are no output, and inline code."""
    text = page.read_text()
    fenced = "\n".join(FENCE.findall(text))
    inline = "\n".join(f"{code} " for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
    lines = [line for line in fenced.splitlines() if re.match(r"\s*(\$ )?(motley|make) ", line)]
    starts = [line for line in inline.splitlines() if line.startswith(("motley ", "make "))]
    return "\n".join(f"{line} " for line in lines + starts)


def test_every_flag_that_the_readme_gives_motley_plan_is_one_of_its_flags() -> None:
    known = build_parser(["plan"])._subparsers
    assert known is not None
    plan_help = known._group_actions[0].choices["plan"].format_help()  # type: ignore[index, call-overload, union-attr]
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.splitlines() if "motley plan" in line]
    flags = {flag for line in lines for flag in re.findall(r"(?<= )--?[a-z][a-z-]*", line)}
    assert lines
    assert flags - set(re.findall(r"--?[a-z][a-z-]*", plan_help)) == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_path_of_the_machine_it_was_written_on(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|root|tmp/team)\b", page.read_text()) == []


def test_make_alone_lists_every_public_target() -> None:
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "crds", "bench", "clean"):
        assert f"make {target} " in done.stdout
