"""Times in requests: with an offset, and taken to UTC where that is possible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the year must be between 1 and 9999") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
