"""The checks of the sources that are our own find what they look for."""

from __future__ import annotations

from pathlib import Path

from artstore_cli.imports import find_cycle
from artstore_cli.prose import find_hints

CYCLE = {
    "__init__.py": "",
    "store.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import wal\n",
    "wal/__init__.py": "from .log import Log\n",
    "wal/log.py": "from package.store import Store\n",
}
PYTHON = (
    '"""Keeps files.\n\nOf two requests the first wins. Which one is first? Files are stored once.\n"""\n'
    "# nobody reads this\nlimit = 3\n# is no number\n"
    'log.info("the upload was owed")\nraise ValueError(f"{limit} is another than stated")\n'
)
MARKDOWN = """# What is kept

There is no limit. Whether a file expires is decided
at night. `who is told`

```
What is in a code block
```
"""


def test_an_import_cycle_through_types_and_packages_is_found(tmp_path: Path) -> None:
    for name, text in CYCLE.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cycle = find_cycle(tmp_path / "package")
    assert set(cycle) == {"package.store", "package.wal", "package.wal.log"}
    (tmp_path / "package" / "wal" / "log.py").write_text("")
    assert find_cycle(tmp_path / "package") == []


def test_each_kind_of_text_is_searched_for_phrases_to_avoid(tmp_path: Path) -> None:
    (tmp_path / "files.py").write_text(PYTHON)
    (tmp_path / "files.md").write_text(MARKDOWN)
    found = [(hint.path.name, hint.line, hint.phrase) for hint in find_hints(tmp_path)]
    assert sorted(found) == [
        ("files.md", 3, "Whether a file expires is decided"),
        ("files.py", 3, "Of two requests the first wins. Which one is first? Files are stored once."),
        ("files.py", 5, "nobody reads this"),
        ("files.py", 7, "is no number"),
        ("files.py", 8, "owed"),
        ("files.py", 9, "is another than stated"),
    ]
