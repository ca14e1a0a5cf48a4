"""Settings of the query module."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from artstore.config import Count, DiscoverySettings, ModuleSettings, ReadAuditSettings, Seconds, TransferSettings


class Settings(ModuleSettings, DiscoverySettings, TransferSettings, ReadAuditSettings):
    """The times to live bound the age of an answer when change events are lost."""

    cache_memory_entries: Count = 20_000
    """Files remembered in the memory of the process (level 1), in 1 KiB each: fewer with long attributes."""
    cache_memory_ttl_s: Seconds = 300
    """How long an entry of level 1 is used. It bounds the age of an answer while Redis, PostgreSQL and the element
    are all unavailable."""
    content_cache_bytes: Annotated[int, Field(ge=0)] = 32 << 20
    """Memory for the contents of files of up to 64 KiB that were read lately, and of larger ones that were read again, up
    to 1 MiB and a 32nd of this memory; 0 for none. They are used without asking the element for CACHE_MEMORY_TTL_S.
    Larger ones that clients are reading may take as much again."""
    catalog_timeout_s: Seconds = 1.5
    """How long a lookup waits for PostgreSQL before it asks the elements."""
    element_answer_timeout_s: Seconds = 7
    """Limit for the head of an element's answer. An archive behind a slow S3 service may need more."""
    element_idle_timeout_s: Seconds = 30
    """An element that stops sending a file for this long counts as failed."""
