"""Tables that benchmarks write into docs/benchmarks.md, between two marks of their own."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def get(name: str) -> str:
    """What stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.

    Raises:
        ValueError: the page does not have both marks, once each and in this order.
    """
    return _split(name)[1]


def put(name: str, text: str) -> None:
    """Replaces what stands there. Raises: ValueError, as `get`."""
    before, _, after = _split(name)
    begin, end = _marks(name)
    PAGE.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def _split(name: str) -> tuple[str, str, str]:
    begin, end = _marks(name)
    text = PAGE.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{PAGE.name}: wanted once each, in this order: {begin} and {end}")
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before, inside, after


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
