from __future__ import annotations

from typing import Any

import pytest

from app.elements.database_identity import is_same
from app.elements.rollback import CatalogState, find_rollback
from artstore.contracts.elements import CatalogMemory

KNOWN = CatalogState(generation=3, version=100, sent=(90, 95, 100))


def memory(**values: Any) -> CatalogMemory:
    return CatalogMemory(**{"generation": 3, "reconciled": 3, "version": 95, "version_generation": 3, **values})


@pytest.mark.parametrize("version", [90, 95, 100])
def test_an_answer_that_was_lost_is_no_evidence(version: int) -> None:
    assert find_rollback(memory(version=version), KNOWN) is None


def test_an_element_that_was_restored_itself_contradicts_nothing() -> None:
    assert find_rollback(memory(version=80), KNOWN) is None


@pytest.mark.parametrize(
    ("values", "known", "word"),
    [
        ({"version": 101}, KNOWN, "later version"),
        ({"version": 97}, KNOWN, "never had"),
        ({"generation": 4}, KNOWN, "later generation"),
        ({"version_generation": 4}, KNOWN, "later generation"),
        ({"doubt": "the catalog has lost the file"}, KNOWN, "lost the file"),
        ({}, CatalogState(generation=3, version=100, sent=()), "not to this database"),
    ],
)
def test_memory_that_this_database_did_not_create_is_evidence(
    values: dict[str, Any], known: CatalogState, word: str
) -> None:
    assert word in str(find_rollback(memory(**values), known))


@pytest.mark.parametrize(
    "values", [{"version": 500}, {"version": 97}, {"doubt": "the catalog has lost the file"}, {"empty": True}]
)
def test_an_element_that_has_not_acknowledged_this_generation_is_not_evidence(values: dict[str, Any]) -> None:
    """The generation that has started since explains it."""
    assert find_rollback(memory(generation=2, version_generation=2, **values), KNOWN) is None


def test_an_element_that_has_only_read_of_this_generation_contradicts_nothing() -> None:
    """It learnt of the generation in the database, and still has the version of the one before."""
    assert find_rollback(memory(generation=3, version=500, version_generation=2), KNOWN) is None


def test_an_element_without_files_or_memory_contradicts_no_new_database() -> None:
    new = CatalogState(generation=1, version=100, sent=())
    assert find_rollback(memory(generation=1, version_generation=1, empty=True), new) is None
    assert find_rollback(CatalogMemory(), new) is None


@pytest.mark.parametrize(
    ("stored", "live", "same"),
    [
        ("7/00000001/5/16385", "7/00000001/5/16385", True),
        ("7/00000001/5/16385", "8/00000001/5/16385", False),
        ("7/00000001/5/16385", "7/00000002/5/16385", False),
        ("7/00000001/5/16385", "7/00000001/6/16385", False),
        ("7/00000001/5/16385", "7/00000001/5/16390", False),
        ("-/00000001/5/16385", "8/00000001/5/16385", True),
        ("7/00000001/5/16385", "-/-/5/16385", True),
        ("-/-/5/16385", "7/00000001/6/16385", False),
    ],
)
def test_an_unknown_part_of_the_identity_matches_anything(stored: str, live: str, same: bool) -> None:
    assert is_same(stored, live) is same
