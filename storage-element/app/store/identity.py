"""element.json: whose disk this is and in which mode. And the lock that keeps a second process off it."""

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
    """This root cannot be used; the text says why, for the operator."""


def new_root_id() -> str:
    return secrets.token_hex(16)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    element_id: str
    mode: Mode
    changed_at: str
    root_id: str = ""
    """Random, made with the root; empty in a root from before root ids."""
    incarnation: int = 0
    """Grows by one with each start, so that of two copies the registry can tell which is newer."""
    accepted: bool = False
    """The registry has accepted this root once: it may serve while admin is away."""
    fenced: bool = False
    """The registry has refused it since: only an operator's word lets it serve again, and starts are not counted."""
    schema_version: int = SCHEMA_VERSION


def lock_root(paths: Paths) -> int:
    """A descriptor that holds the root until it is closed. Raises RootRefused when another process has it."""
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
    """None on a root that was never used. Raises RootRefused for an element.json that cannot be read."""
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


def keep_identity(paths: Paths, identity: Identity) -> None:
    """Durable when it returns: a mode takes effect only after this."""
    encoded = orjson.dumps(msgspec.to_builtins(identity), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    durable.replace_file(paths.element, encoded + b"\n")
