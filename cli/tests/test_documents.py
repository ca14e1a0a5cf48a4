"""The generated documents are current and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from artstore_cli import documents

ROOT = Path(__file__).resolve().parents[2]
GENERATED = documents.generate(ROOT)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_a_generated_document_is_current(path: Path) -> None:
    assert path.read_text() == GENERATED[path], "run ./artstore docs"


def test_every_setting_and_every_error_is_explained() -> None:
    for cls in documents.load_settings_classes(ROOT).values():
        described = {name for base in cls.__mro__ for name, field in _fields(base).items() if field.description}
        assert set(cls.model_fields) <= described
    for error in documents.errors.BY_CODE.values():
        assert error.__doc__
        assert error.remedy


def _fields(cls: type) -> dict[str, documents.FieldInfo]:
    return getattr(cls, "model_fields", {})
