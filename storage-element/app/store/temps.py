"""Temps: files under tmp/ on the element's own disk, where bodies and new attributes wait until they are published.

A temp is a pair of names: the data, and the same name with the suffix of attr.json. A start removes every temp that the log does
not need.
"""

from __future__ import annotations

from itertools import count

from . import durable
from .paths import ATTRIBUTES_SUFFIX, Paths


class Temps:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._numbers = count(1)

    def new(self, file_id: str) -> str:
        """A name that nothing in this run has."""
        return f"{file_id}.{next(self._numbers)}"

    def data(self, temp: str) -> str:
        """The path of the data."""
        return self._paths.temp(temp)

    def attributes(self, temp: str) -> str:
        """The path of the attributes."""
        return self._paths.temp(temp + ATTRIBUTES_SUFFIX)

    def write_data(self, temp: str, data: bytes) -> None:
        """Not synced."""
        durable.write_new(self.data(temp), [data])

    def write_attributes(self, temp: str, attributes: bytes) -> None:
        """Not synced."""
        durable.write_new(self.attributes(temp), [attributes])

    def read_attributes(self, temp: str) -> bytes:
        with open(self.attributes(temp), "rb") as file:
            return file.read()

    def sync(self, temp: str) -> None:
        """Data and attributes, the attributes last. Their names are not synced."""
        durable.sync_path(self.data(temp))
        durable.sync_path(self.attributes(temp))

    def complete(self, temp: str, attributes: bytes) -> None:
        """Add the attributes to the data, and make both durable with their names: the log is about to depend on them."""
        self.write_attributes(temp, attributes)
        self.sync(temp)
        durable.sync_path(self._paths.temps)

    def replace_attributes(self, temp: str, attributes: bytes) -> None:
        """Durable attributes from the log, instead of those that a crash may have cut short."""
        durable.remove(self.attributes(temp))
        self.write_attributes(temp, attributes)
        durable.sync_path(self.attributes(temp))

    def drop(self, temp: str) -> None:
        """Missing files are not an error. A mark of an older log has an empty name."""
        if temp:
            durable.remove(self.attributes(temp))
            durable.remove(self.data(temp))
