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

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    rate_limit_per_minute: Count = 100
    """Requests per minute of an account without a rate of its own."""
    rate_limit_burst: Count = 150
    """Requests at once of such an account. An account's own rate brings a burst in the same proportion."""
    ip_rate_limit_per_minute: Count = 1200
    """Requests per minute without valid credentials, for each address; half as many at once."""
    ip_block_after_failures: Count = 200
    """Invalid credentials of one address, beyond one per second, after which it is answered 429."""
    ip_block_s: Seconds = 60
    """How long an address with too many invalid credentials is answered 429."""
    transfers_per_account: Count = 128
    """Uploads and downloads that one account may have open at once in one process."""
    trusted_proxies: Annotated[list[str], NoDecode] = []
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed."""
    limit_loop_lag_s: Seconds = 0.5
    """All limits tighten while the event loop is later than this, smoothed over about a second."""

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        parse_networks(value)
        return value
