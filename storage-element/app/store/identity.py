"""element.json: the element that a root belongs to, and its mode. And the lock that excludes a second process."""

from __future__ import annotations

import fcntl
import os
import secrets

import msgspec
import orjson

from artstore.contracts.elements import Mode
from artstore.errors import StartRefused

from . import durable
from .paths import Paths

SCHEMA_VERSION = 1


class RootRefused(StartRefused):
    """This root cannot be used. The text gives the operator the reason."""


def new_root_id() -> str:
    return secrets.token_hex(16)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    element_id: str
    mode: Mode
    changed_at: str
    root_id: str = ""
    """Random, created with the root; empty in a root older than root ids."""
    incarnation: int = 0
    """Incremented at each start, so that the registry knows which of two copies is newer."""
    accepted: bool = False
    """The registry has accepted this root before: it may serve while admin is unavailable."""
    fenced: bool = False
    """The registry has refused this root since: only an operator can accept it again, and starts are not counted."""
    schema_version: int = SCHEMA_VERSION


def lock_root(paths: Paths) -> int:
    """A descriptor that locks the root until it is closed. Raises RootRefused when another process has locked it."""
    try:
        fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE)
    except OSError as error:
        raise RootRefused(f"{paths.lock} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise RootRefused(f"another process uses {paths.root}") from error
    return fd


def find_identity(paths: Paths) -> Identity | None:
    """None for a root that was never used. Raises RootRefused for an element.json that cannot be read."""
    try:
        with open(paths.element, "rb") as file:
            encoded = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RootRefused(f"{paths.element} cannot be read: {error.strerror}") from error
    try:
        identity = msgspec.json.decode(encoded, type=Identity)
    except msgspec.MsgspecError as error:
        raise RootRefused(f"{paths.element} cannot be read: {error}") from error
    if identity.schema_version != SCHEMA_VERSION:
        raise RootRefused(f"{paths.element} has schema_version {identity.schema_version}")
    return identity


def save_identity(paths: Paths, identity: Identity) -> None:
    """Durable when it returns: a mode takes effect only afterwards."""
    encoded = orjson.dumps(msgspec.to_builtins(identity), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    durable.replace_file(paths.element, encoded + b"\n")
