"""The promises of the contract in backends/base.py, tested on every backend."""

from __future__ import annotations

import hashlib
import os

import pytest

from app.store.attributes import first_revision, with_content
from app.store.backends.base import Backend
from artstore.clock import uuid7
from artstore.contracts.files import Attributes, encode
from artstore.errors import Unavailable

from ..support import new_file

SIZES = [0, 1, 65_536, (5 << 20) + 1, 17_000_000]


def described(file_id: str, content: bytes) -> Attributes:
    return first_revision(
        file_id,
        new_file(),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        element_id="se-01",
        now="2026-01-01T00:00:00.000000Z",
    )


def rewritten(attributes: Attributes, content: bytes) -> Attributes:
    return with_content(
        attributes,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        content_type="text/plain",
        now="2026-01-02T00:00:00.000000Z",
    )


def received(files: Backend, file_id: str, content: bytes) -> str:
    temp = files.temps.new(file_id)
    files.temps.write_data(temp, content)
    return temp


def complete(files: Backend, attributes: Attributes, content: bytes) -> str:
    temp = received(files, attributes.file_id, content)
    files.temps.complete(temp, encode(attributes))
    return temp


def published(files: Backend, content: bytes) -> Attributes:
    attributes = described(str(uuid7()), content)
    files.publish(attributes.file_id, received(files, attributes.file_id, content), encode(attributes))
    return attributes


def content_of(files: Backend, file_id: str) -> bytes:
    data = files.open_data(file_id)
    assert data is not None
    pieces = []
    offset = 0
    while piece := data.read(offset, 1 << 20):
        pieces.append(piece)
        offset += len(piece)
    assert data.size_bytes == offset
    data.close()
    return b"".join(pieces)


@pytest.mark.parametrize("size", SIZES)
def test_a_published_file_is_whole_and_leaves_no_temp(files: Backend, size: int) -> None:
    content = os.urandom(size)
    attributes = published(files, content)
    assert files.find_attributes(attributes.file_id) == encode(attributes)
    assert content_of(files, attributes.file_id) == content
    assert files.holds(attributes.file_id, attributes)
    assert os.listdir(files.paths.temps) == []


def test_a_small_file_needs_no_temps_of_its_caller(files: Backend) -> None:
    attributes = described(str(uuid7()), b"small")
    files.publish_small(attributes.file_id, files.temps.new(attributes.file_id), b"small", encode(attributes))
    assert files.find_attributes(attributes.file_id) == encode(attributes)
    assert content_of(files, attributes.file_id) == b"small"
    assert os.listdir(files.paths.temps) == []


def test_a_file_that_was_never_put_is_not_found(files: Backend) -> None:
    file_id = str(uuid7())
    assert files.find_attributes(file_id) is None
    assert files.open_data(file_id) is None
    assert files.find_many([file_id]) == [None]
    assert not files.holds(file_id, described(file_id, b""))


def test_any_range_of_the_bytes_can_be_read_in_any_order(files: Backend) -> None:
    content = os.urandom(9_000_000)
    data = files.open_data(published(files, content).file_id)
    assert data is not None
    for offset, size in [
        (0, 1),
        (1, 10),
        (8_999_999, 1),
        (8_999_999, 500),
        (1 << 20, 1 << 20),
        (2 << 20, 1 << 20),
        (5, 3),
    ]:
        piece = data.read_cached(offset, size)
        if piece is None:
            piece = data.read(offset, size)
        assert piece == content[offset : offset + size]
    assert data.read(9_000_000, 10) == b""
    other = data.duplicate()
    data.close()
    assert other.read(100, 50) == content[100:150]
    other.close()


def test_a_put_can_be_undone_from_any_step_and_undone_again(files: Backend) -> None:
    for step in ("nothing", "received", "published"):
        attributes = described(str(uuid7()), b"x" * 100)
        temp = files.temps.new(attributes.file_id)
        if step != "nothing":
            temp = received(files, attributes.file_id, b"x" * 100)
        if step == "published":
            files.publish(attributes.file_id, temp, encode(attributes))
        files.undo_put(attributes.file_id, temp)
        files.undo_put(attributes.file_id, temp)
        assert files.find_attributes(attributes.file_id) is None
        assert files.open_data(attributes.file_id) is None
    assert os.listdir(files.paths.temps) == []
    assert seen_ids(files) == set()


def test_remove_removes_data_and_attributes_and_may_be_repeated(files: Backend) -> None:
    attributes = published(files, b"gone soon")
    files.remove(attributes.file_id)
    files.remove(attributes.file_id)
    assert files.find_attributes(attributes.file_id) is None
    assert files.open_data(attributes.file_id) is None
    assert seen_ids(files) == set()


def test_replaced_attributes_keep_the_data(files: Backend) -> None:
    attributes = published(files, b"the same")
    changed = rewritten(attributes, b"the same")
    for _ in range(2):
        files.replace_attributes(attributes.file_id, files.temps.new(attributes.file_id), encode(changed))
    assert files.find_attributes(attributes.file_id) == encode(changed)
    assert content_of(files, attributes.file_id) == b"the same"


@pytest.mark.parametrize("size", SIZES)
def test_a_swap_replaces_data_and_attributes(files: Backend, size: int) -> None:
    attributes = published(files, b"the first revision")
    content = os.urandom(size)
    changed = rewritten(attributes, content)
    files.swap(attributes.file_id, complete(files, changed, content))
    assert files.find_attributes(attributes.file_id) == encode(changed)
    assert content_of(files, attributes.file_id) == content
    assert os.listdir(files.paths.temps) == []


def test_a_swap_can_be_repeated_after_it_was_cut_short(files: Backend) -> None:
    attributes = published(files, b"the first revision")
    changed = rewritten(attributes, b"the second")
    temp = complete(files, changed, b"the second")
    files.swap(attributes.file_id, temp)
    files.temps.replace_attributes(temp, encode(changed))
    files.swap(attributes.file_id, temp)
    assert files.find_attributes(attributes.file_id) == encode(changed)
    assert content_of(files, attributes.file_id) == b"the second"


def test_a_reader_never_gets_another_revisions_bytes(files: Backend) -> None:
    old, new = os.urandom(3_000_000), os.urandom(3_000_000)
    attributes = published(files, old)
    data = files.open_data(attributes.file_id)
    assert data is not None
    assert data.read(0, 1000) == old[:1000]
    files.swap(attributes.file_id, complete(files, rewritten(attributes, new), new))
    try:
        rest = data.read(1_000_000, 1_000_000)
    except Unavailable:
        rest = old[1_000_000:2_000_000]  # cut off is allowed, mixed is not
    assert rest == old[1_000_000:2_000_000]
    data.close()


def test_a_walk_is_in_order_and_resumes_at_any_file(files: Backend) -> None:
    ids = [published(files, b"x").file_id for _ in range(30)]
    ids.sort(key=lambda file_id: (file_id[-4:-2], file_id[-2:], file_id))
    assert list(files.walk()) == ids
    for position in (0, 13, 29):
        assert list(files.walk(ids[position])) == ids[position + 1 :]
    assert files.find_many(ids[3:6]) == [files.find_attributes(file_id) for file_id in ids[3:6]]


def test_a_survey_shows_whole_files_with_their_size(files: Backend) -> None:
    file_id = published(files, b"12345").file_id
    [seen] = files.survey(file_id[-4:-2])
    assert (seen.file_id, seen.has_attributes, seen.data_bytes) == (file_id, True, 5)
    assert seen.changed_s > 1_700_000_000


def test_a_quarantined_file_is_neither_read_nor_listed(files: Backend) -> None:
    attributes = published(files, b"rotten")
    assert files.count_quarantined() == 0
    files.quarantine(attributes.file_id)
    files.quarantine(attributes.file_id)
    assert files.count_quarantined() == 1
    assert files.find_attributes(attributes.file_id) is None
    assert list(files.walk()) == []
    assert seen_ids(files) == set()
    assert files.is_quarantined(attributes.file_id)
    assert not files.is_quarantined(str(uuid7()))


def seen_ids(files: Backend) -> set[str]:
    return {seen.file_id for first in range(256) for seen in files.survey(f"{first:02x}")}
