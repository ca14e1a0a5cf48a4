"""The documents: what is generated from code is current, links lead somewhere, pages stay readable; and no number of a
decision or migration is given twice, which happens when two changes are written at the same time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic.fields import FieldInfo

from artstore.errors import BY_CODE
from artstore_cli import documents

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES, MAX_COLUMNS = 200, 120
MODULES = ("admin-module", "storage-element", "ingester-module", "query-module")
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("clients/*/*.md"),
        *(page for folder in (*MODULES, "keys", "tests") for page in ROOT.glob(f"{folder}/**/*.md")),
    )
)
GENERATED = documents.generate(ROOT)
MAY_BE_LONG = {"CHANGELOG.md", "docs/settings.md", "docs/errors.md"}
"""A history, and two lists that grow with the code."""
ROWS_MAY_BE_WIDE = {
    "tests/faults/README.md",
    "storage-element/tests/faults/README.md",
    "storage-element/README.md",
    "storage-element/app/store/DESIGN.md",
    "storage-element/app/store/DESIGN-S3.md",
    "docs/production-readiness.md",
}
"""A row of their tables names a fault or a feature with all of its tests, or a crash with all of its effects."""
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MENTION = re.compile(r"`((?:docs|tests|cli|shared|keys|[a-z]+-module|storage-element)/[\w./-]+\.(?:md|py|yml))`")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_a_generated_document_is_current(path: Path) -> None:
    assert path.read_text() == GENERATED[path], "run ./artstore docs"


def test_every_setting_and_every_error_is_explained() -> None:
    for cls in documents.load_settings_classes(ROOT).values():
        described = {name for base in cls.__mro__ for name, field in _fields(base).items() if field.description}
        assert set(cls.model_fields) <= described
    for error in BY_CODE.values():
        assert error.__doc__
        assert error.remedy


def _fields(cls: type) -> dict[str, FieldInfo]:
    return getattr(cls, "model_fields", {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found), target
    missing = [name for name in MENTION.findall(text) if not any(base.joinpath(name).exists() for base in _bases(page))]
    assert not missing


def _bases(page: Path) -> tuple[Path, ...]:
    return (ROOT, *page.parents[: len(page.relative_to(ROOT).parts) - 1])


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_short_and_narrow(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) <= MAX_LINES or name_of(page) in MAY_BE_LONG
    rows = name_of(page) in ROWS_MAY_BE_WIDE
    wide = [line for line in lines if len(line) > MAX_COLUMNS and not (rows and line.startswith("|"))]
    assert not wide


def test_every_decision_has_a_number_of_its_own_and_none_is_left_out() -> None:
    names = sorted(page.name for page in (ROOT / "docs/decisions").glob("*.md"))
    assert [name[:5] for name in names] == [f"{number:04}-" for number in range(1, len(names) + 1)], names


def test_the_migrations_are_one_line() -> None:
    """Two heads, or a revision given twice, would keep admin-module from starting."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "admin-module/migrations"))
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    files = list((ROOT / "admin-module/migrations/versions").glob("*.py"))
    assert [one.revision for one in reversed(revisions)] == [f"{number:04}" for number in range(1, len(files) + 1)]
    assert all(Path(one.path).name.startswith(f"{one.revision}_") for one in revisions)
