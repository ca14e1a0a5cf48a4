"""The Python client of ArtStore: async, typed, with httpx as its only dependency. `Client` is where to begin."""

from . import errors
from .admin import UNSET
from .batch import Upload
from .client import Client
from .download import Content, safe_name
from .errors import *  # noqa: F403
from .filters import Filters
from .pages import Changes, Listing, Page
from .records import (
    Account,
    AccountWithSecret,
    AuditEvent,
    Capacity,
    Change,
    Element,
    FileRecord,
    Link,
    Record,
    Saga,
)
from .tokens import TokenProvider
from .version import VERSION

__version__ = VERSION
__all__ = [
    "UNSET",
    "VERSION",
    "Account",
    "AccountWithSecret",
    "AuditEvent",
    "Capacity",
    "Change",
    "Changes",
    "Client",
    "Content",
    "Element",
    "FileRecord",
    "Filters",
    "Link",
    "Listing",
    "Page",
    "Record",
    "Saga",
    "TokenProvider",
    "Upload",
    "safe_name",
]
__all__ += errors.__all__
