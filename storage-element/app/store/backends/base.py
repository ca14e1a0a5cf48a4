"""The contract between the store and the place that holds its files: a local disk, or a bucket in S3.

The operations decide the order of events, a backend does the single steps. Every backend uses the same names
(`files/3f/a2/<file_id>` and `….attr.json`) and the same order: data before attr.json when a file appears,
attr.json before data when it disappears. So a visible file is complete, and attr.json is the commit point.
tests/store/conformance runs the same promises on every backend.

All methods block; call them in a thread, except where `nonblocking_reads` says otherwise. They raise OSError
for the element's own disk (DiskHealth explains it), and Unavailable when the backend does not answer: then
the last step may or may not have happened. `undo_put`, `replace_attributes`, `swap`, `remove` and
`quarantine` are idempotent: repeat them until they return.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from artstore.contracts.files import Attributes

from ..durable import FileIdentity
from ..paths import Paths
from ..temps import Temps


class OpenData(Protocol):
    """The bytes of one revision. Reading returns bytes of that revision or fails; it never returns another
    revision's bytes."""

    @property
    def size_bytes(self) -> int: ...

    def version(self) -> Hashable | None:
        """Differs once anyone has written to the data. None when that cannot be known."""

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        """The bytes if they are in memory, without blocking. None: call `read` in a thread."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`; empty at the end."""

    def drop_cache(self) -> None:
        """Drop cached bytes, so that the next read comes from the disk."""

    def duplicate(self) -> OpenData:
        """The same bytes for another reader, who closes them separately."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file as a survey finds it. Without attributes or without data it is incomplete: damaged, or in the
    middle of a put."""

    file_id: str
    has_attributes: bool
    data_bytes: int | None
    """None: the data does not exist."""
    changed_s: float
    """When the data was written; without data, when attr.json was. Unix seconds."""


class Backend(Protocol):
    paths: Paths
    temps: Temps
    """On the element's own disk with every backend: a body is received there before it is published."""
    unreadable_folders: set[str]
    """Folders that could not be listed. A scrub reports and removes them."""

    @property
    def nonblocking_reads(self) -> bool:
        """`find_attributes` and `open_data` do not wait for a network, and may be called in the event
        loop."""

    @property
    def log_carries_files(self) -> bool:
        """True: small files are durable by their frame in the log, and replay makes them again after a crash.

        False: a method is durable when it returns, and nothing is replayed.
        """

    @property
    def threads(self) -> int:
        """How many calls may usefully run at the same time."""

    def publish(self, file_id: str, temp: str, attributes: bytes) -> None:
        """Make the received temp a visible file: data, then attr.json. Durable when it returns."""

    def publish_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """As `publish`, for data in memory. If the log carries files, its frame makes the file durable, not
        this call."""

    def undo_put(self, file_id: str, temp: str) -> None:
        """Remove attr.json, data and temps of a put, whichever of them exist."""

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        """Replace attr.json atomically; the data stays."""

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Replace data, then attr.json. Only called where the log carries files."""

    def swap(self, file_id: str, temp: str) -> None:
        """Replace data, then attr.json, by a complete temp. Durable when it returns.

        In between, data and attributes do not match: the log has decided the change, and a swap cut short is
        repeated.
        """

    def open_replacing(self, temp: str) -> OpenData | None:
        """The new bytes of a temp, for readers while `swap` runs. None where opened old bytes stay
        readable."""

    def remove(self, file_id: str) -> None:
        """Remove attr.json, then data. A missing file is not an error."""

    def quarantine(self, file_id: str) -> None:
        """Move attr.json, then data, to the quarantine, where a person finds them and readers and listings do
        not."""

    def is_quarantined(self, file_id: str) -> bool:
        """True if attr.json or data of this file is in the quarantine."""

    def count_quarantined(self) -> int:
        """The number of files in the quarantine. Lists it."""

    def identify(self, file_id: str) -> tuple[FileIdentity, ...]:
        """The identities of attr.json and data, for the log; empty where nothing is replayed."""

    def find_attributes(self, file_id: str) -> bytes | None:
        """The content of attr.json, damaged or not; None when it does not exist."""

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        """`find_attributes` of each file, in the same order."""

    def open_data(self, file_id: str) -> OpenData | None:
        """None when the data does not exist. The caller closes it."""

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """True if the data is what the attributes describe, checked as far as a crash can have made it
        differ."""

    def survey(self, first: str) -> list[FileEntry]:
        """All files in the folders files/<first>/, also incomplete ones, without reading their content."""

    def walk(self, after: str = "") -> Iterator[str]:
        """Ids of files with an attr.json after the id `after`, in the order of folder and name, which puts do
        not change."""

    def walk_strays(self) -> Iterator[str]:
        """Printable paths in the folders of files that are not files of this element. Nothing touches
        them."""
