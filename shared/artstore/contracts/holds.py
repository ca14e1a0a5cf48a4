"""Whether a change has been made already: asked by whoever goes on after somebody whose answer was lost."""

from __future__ import annotations

import msgspec
import orjson

from artstore.contracts.files import Attributes, Changes


def holds(now: Attributes, wanted: Changes) -> bool:
    """Whether the file is as wanted. Compared as JSON: in Python 1, 1.0 and True are the same."""
    for name in wanted.__struct_fields__:
        value = getattr(wanted, name)
        if value is not msgspec.UNSET and _json(value) != _json(getattr(now, name)):
            return False
    return True


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
