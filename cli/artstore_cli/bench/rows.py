"""The rows of the table: operation, size and concurrency, with the requests to both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .fill import BINARY, KIB, MIB, Paths
from .load import NAME, Requests, Transfer


@dataclass(frozen=True, slots=True)
class Row:
    operation: str
    size: str
    concurrency: int
    ours: Requests | Transfer
    theirs: Requests | Transfer

    @property
    def key(self) -> tuple[str, str, int]:
        return self.operation, self.size, self.concurrency

    @property
    def title(self) -> str:
        return f"{self.operation} {self.size} c={self.concurrency}"


@dataclass(frozen=True, slots=True)
class Side:
    """How one side is written and read."""

    method: str
    write_port: int
    write_path: str
    """With NAME in it."""
    read_port: int
    headers: Mapping[str, str]
    paths: Paths

    def put(self, size_bytes: int) -> Requests:
        return Requests(
            self.method, self.write_port, self.write_path, {**self.headers, **BINARY}, body_bytes=size_bytes
        )

    def get(self, path: str) -> Requests:
        return Requests("GET", self.read_port, path, self.headers)

    def get_each(self, paths: Path) -> Requests:
        return Requests("GET", self.read_port, headers=self.headers, paths=str(paths))

    def put_big(self, file: Path) -> Transfer:
        path = self.write_path.replace(NAME, "big")
        return Transfer(self.method, self.write_port, path, {**self.headers, **BINARY}, file.stat().st_size, file)

    def get_big(self, size_bytes: int) -> Transfer:
        return Transfer("GET", self.read_port, self.paths.big, self.headers, size_bytes)


def rows(ours: Side, theirs: Side, big: Path, number: int) -> list[Row]:
    """The rows of round `number`, counted from 0."""

    def get(operation: str, size: str, concurrency: int, our_path: str, their_path: str) -> Row:
        return Row(operation, size, concurrency, ours.get(our_path), theirs.get(their_path))

    small, their_small = ours.paths.small, theirs.paths.small
    big_bytes = big.stat().st_size
    big_size = f"{big_bytes // MIB} MiB"
    return [
        *(Row("PUT", "4 KiB", c, ours.put(4 * KIB), theirs.put(4 * KIB)) for c in (1, 16, 64)),
        Row("PUT", "64 KiB", 16, ours.put(64 * KIB), theirs.put(64 * KIB)),
        *(get("GET one file", "4 KiB", c, small, their_small) for c in (1, 64)),
        Row(
            "GET each once, cold",
            "4 KiB",
            64,
            ours.get_each(ours.paths.many[number]),
            theirs.get_each(theirs.paths.many[number]),
        ),
        get("GET attributes ÷ GET 4 KiB", "–", 64, small.removesuffix("/content"), their_small),
        get("GET one file", "1 MiB", 16, ours.paths.large, theirs.paths.large),
        Row("PUT", big_size, 1, ours.put_big(big), theirs.put_big(big)),
        Row("GET", big_size, 1, ours.get_big(big_bytes), theirs.get_big(big_bytes)),
    ]
