"""`python -m artstore_cli.prose`: lists phrases that a reader may have to read twice. They are hints and never fail a check.

Looks at docstrings, comments, error texts and log events of Python files, and at Markdown. Code is left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN = 8
"""Hints printed; of the others only the number."""
HABITS = {
    "clause without a main verb": r"(?:\A|[.!?]\s+|\n\s*\n\s*)((?:What|Who|Whoever|Of|Whether|That which)\b(?![^.!]*\?).*)",
    "'is no', 'are no'": r"((?<![Tt]here )\b(?:is|are) no (?!longer|more)[a-z].*)",
    "'is another'": r"(\bis another\b.*)",
    "nobody, somebody, whoever": r"(\b(?:[Nn]obody|[Ss]omebody|[Ww]hoever)\b.*)",
    "'lies' for 'is stored'": r"(\blies?\b(?! (?:to|about)).*)",
    "word that the glossary replaces": r"(\b(?:aside|owed|owing|told|tells|telling|wish|meant(?! for)|kicks?|void|standing)\b.*)",
}
PATTERNS = {habit: re.compile(pattern) for habit, pattern in HABITS.items()}
COMMENT = re.compile(r"(?:^|\s)#+ (?!type:|noqa|fmt:)(.*)")
NOT_PROSE = re.compile(r"^```.*?^```|^#[^\n]*|`[^`\n]*`", re.MULTILINE | re.DOTALL)
"""Code, and the headings of Markdown."""
LOGGED = frozenset({"debug", "info", "warning", "error", "exception"})


class Hint(NamedTuple):
    path: Path
    line: int
    habit: str
    phrase: str


def find_hints(root: Path) -> list[Hint]:
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".py", ".md") and not _is_hidden(path, root)]
    return [hint for path in files for hint in hints_in(path)]


def hints_in(path: Path) -> Iterator[Hint]:
    source = path.read_text(encoding="utf-8")
    texts = _texts_of_python(source) if path.suffix == ".py" else [(1, source)]
    for line, written in texts:
        text = NOT_PROSE.sub(lambda code: "…" + "\n" * code[0].count("\n"), written)
        for habit, pattern in PATTERNS.items():
            for found in pattern.finditer(text):
                yield Hint(path, line + text.count("\n", 0, found.start(1)), habit, found[1])


def _texts_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Each text with the line where it starts."""
    for number, line in enumerate(source.splitlines(), 1):
        if comment := COMMENT.search(line):
            yield number, comment[1]
    for node in ast.walk(ast.parse(source)):
        parts: Iterable[ast.AST] = ()
        if isinstance(node, ast.Expr):
            parts = [node.value]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            parts = ast.walk(node.exc)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGED:
            parts = node.args
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    hints = find_hints(root)
    for hint in hints[:SHOWN]:
        print(f"{hint.path.relative_to(root)}:{hint.line}: {hint.habit}: {hint.phrase[:70]}")
    if hints:
        print(f"{len(hints)} hints on prose in all")


if __name__ == "__main__":
    main()
