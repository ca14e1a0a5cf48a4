"""What the protocols ask of the place where files lie. The order of events is theirs; what one step does is the backend's.

Both keep the same names (`files/3f/a2/<file_id>` and `….attr.json`) and the same order: data before attr.json when a file
comes, attr.json before data when it goes. So a file that can be seen is whole, and attr.json is the commit point.

All methods block and are called from threads, but for the two looks of a backend that has `nonblocking_reads`. They raise OSError
for the element's disk (Failing explains it) and Unavailable for a backend that is away; then nobody knows whether the last
step took effect. What takes away, `replace_attributes` and `finish_swap` may be repeated until they return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from artstore.contracts.files import Attributes

from ..durable import Identity
from ..paths import Paths


class OpenData(Protocol):
    """The bytes of one revision. They stay those of that revision, or reading fails: never another revision's."""

    @property
    def size_bytes(self) -> int: ...

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        """What memory has, in the event loop. None: ask `read`, in a thread."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`; none at the end."""

    def drop_cache(self) -> None:
        """Let memory forget what it has, so that the next reading is one of the disk."""

    def duplicate(self) -> OpenData:
        """For one more reader, who closes it himself."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What of a file lies there, read or not. A half (data or attributes alone) is a finding, or a put under way."""

    file_id: str
    has_attributes: bool
    data_bytes: int | None
    """None: there are no bytes."""
    changed_s: float
    """When the bytes came into their place; without bytes, when the attributes did. Unix seconds."""


class Backend(Protocol):
    """Temps lie under `paths.temps` on the element's own disk in either backend: a body is there before it is published."""

    paths: Paths
    unreadable_folders: set[str]
    """Folders that could not be listed since somebody looked here last."""

    @property
    def nonblocking_reads(self) -> bool:
        """Looks (find_attributes, open_data) cost page cache only and may be made in the event loop."""

    @property
    def rides_in_log(self) -> bool:
        """Small files ride in the log's frame and replay makes them. False: what a method returns from is durable."""

    @property
    def threads(self) -> int:
        """How many calls at once are worth while."""

    # Temps

    def new_temp(self, file_id: str) -> str:
        """A name under tmp/ that nothing in this run has; the start has emptied the folder."""

    def stage(self, temp: str, content: bytes) -> None:
        """A new temp with this content, not synced."""

    def sync_new(self, temp: str) -> None:
        """Step 3 of a put: the temps of data and attributes, where `publish` does not make them durable itself."""

    def sync_decided(self, temp: str) -> None:
        """Temps and their names outlive a power cut: the log is about to say that they go forward."""

    def open_staged(self, temp: str) -> OpenData | None:
        """The staged bytes, for readers while `swap` runs. None where the old revision stays readable once it is open."""

    def drop_temps(self, temp: str) -> None: ...

    # A file comes

    def publish(self, file_id: str, temp: str) -> None:
        """Step 4 of a put: data, then attr.json. Durable when it returns."""

    def put_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Steps 2 and 4 at once for a file held in memory. Durable by the log's frame where small files ride in it."""

    def undo_put(self, file_id: str, temp: str) -> None:
        """Back to nothing, attr.json first, whatever of the put was done."""

    # A file changes

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        """Another attr.json in one step; the bytes stay."""

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Data, then attr.json; only where small files ride in the log."""

    def swap(self, file_id: str, temp: str) -> None:
        """Data, then attr.json, from synced temps. Between the two they do not match: the log goes forward from there."""

    def finish_swap(self, file_id: str, temp: str) -> None:
        """A swap that was cut in two, wherever. Durable when it returns."""

    def sync_folder(self, file_id: str) -> None:
        """The names in a file's folder, where they are not durable already."""

    # A file goes

    def remove(self, file_id: str) -> None:
        """attr.json, then data. Nothing there is no error."""

    def quarantine(self, file_id: str) -> None:
        """Out of the way of listings and reads, attr.json first, kept for a person to look at."""

    def is_quarantined(self, file_id: str) -> bool:
        """Whether anything of the file lies in quarantine."""

    # Looking

    def identify(self, file_id: str) -> tuple[Identity, ...]:
        """attr.json and data as they lie there now, for the log; nothing where nothing is replayed from the log."""

    def find_attributes(self, file_id: str) -> bytes | None:
        """attr.json as it lies there, damaged or not."""

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        """As `find_attributes` for each, in their order."""

    def open_data(self, file_id: str) -> OpenData | None: ...

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """Whether the bytes there are those that the attributes describe, as far as a crash can have made them differ."""

    def survey(self, first: str) -> list[FileEntry]:
        """All that lies in the folders files/<first>/, halves included, without reading any of it."""

    def walk_strays(self) -> Iterator[str]:
        """Printable paths of what lies among the files and is none of them. Nothing of ours touches it."""

    def walk(self, after: str = "") -> Iterator[str]:
        """File ids with an attr.json after the id `after`, by folder and then by name: puts do not change the order."""
