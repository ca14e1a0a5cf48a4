"""Settings of the limits; part of every service's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from artstore.limits.addresses import parse_networks

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class LimitSettings(BaseSettings):
    """The same on every instance of a service: they share the limits through Redis."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    rate_limit_per_minute: Count = 100
    """Of an account that has no rate of its own."""
    rate_limit_burst: Count = 150
    """An account's own rate brings a burst in the same proportion."""
    ip_rate_limit_per_minute: Count = 1200
    """Requests without credentials, by address."""
    ip_rate_limit_burst: Count = 600
    ip_block_after_failures: Count = 200
    """Credentials that are not valid, by address, beyond one a second."""
    ip_block_s: Seconds = 60
    transfers_per_account: Count = 128
    """Uploads and downloads under way at once, of one account in one process: twice what a busy client opens."""
    trusted_proxies: Annotated[list[str], NoDecode] = []
    """Comma-separated addresses or networks whose X-Forwarded-For is believed; none by default."""
    limit_loop_lag_s: Seconds = 0.5
    """Limits tighten while the event loop is later than this, smoothed over about a second."""
    limit_in_flight: Count = 1000
    """Limits tighten while more requests than this are under way."""

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        parse_networks(value)
        return value
