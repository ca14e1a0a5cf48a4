"""`docs`: writes what is generated from code: docs/settings.md, docs/errors.md, the list of setting names, and the OpenAPI
document of the one address.

A test fails while one of them differs from what the code says.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from artstore import config, errors
from artstore.limits.settings import LimitSettings

from . import openapi
from .checks import MODULES
from .openapi import importable

WIDTH = 120
SHARED: dict[type[BaseSettings], str] = {
    config.ServiceSettings: "Every service",
    LimitSettings: "Limits",
    config.DatabaseSettings: "PostgreSQL",
    config.RedisSettings: "Redis",
    config.AdminClientSettings: "The module's own account",
    config.DiscoverySettings: "The registry of elements",
    config.TransferSettings: "Transfers of files",
    config.UploadSettings: "Uploads",
}
"""Title of each shared class; a module's own settings stand under the module's name."""
UNITS = {
    "_PER_MINUTE": "per minute",
    "_BYTES_PER_S": "bytes per second",
    "_S": "seconds",
    "_BYTES": "bytes",
}
COMMAND = "./artstore docs"

SETTINGS_HEAD = f"""# Settings

Generated from the settings classes by `{COMMAND}`; a test checks that it is current. To change a text, change the
docstring of the setting.

A setting is an environment variable, read once at the start. An empty value counts as absent. A secret may be given as
a file instead: `NAME_FILE` holds its path. A setting that is missing, malformed or misspelt stops the start with one
line on standard error and exit status 2; a setting of an earlier version is only named in a warning. The same name
means the same in every service. `.env.example` lists what `docker-compose.yml` takes from its environment;
`./artstore up` passes its own environment on to the services.
"""
ERRORS_HEAD = f"""# Errors

Generated from `shared/artstore/errors.py` by `{COMMAND}`; a test checks that it is current.

Every error is an RFC 9457 document of type `application/problem+json` with the members `type`
(`urn:artstore:error:<code>`), `title`, `status`, `detail`, `code` and `request_id`, and members of its own, such as
`fields`, `away` or `retry_after_s`. The title belongs to the code; the detail explains this one request. Codes and
statuses never change; titles and details may.
"""
NAMES_HEAD = f'''"""The names of all settings of all modules. Generated from the settings classes by `{COMMAND}`.

One list for all: the same name means the same everywhere, and several modules may share one environment.
"""

from __future__ import annotations

SETTING_NAMES = frozenset(
    {{
'''


def generate(root: Path) -> dict[Path, str]:
    """Path and content of every generated file."""
    classes = load_settings_classes(root)
    return {
        root / "docs" / "settings.md": settings_page(classes),
        root / "docs" / "errors.md": errors_page(),
        root / "shared" / "artstore" / "setting_names.py": names_module(classes),
        root / "gateway" / "openapi.json": openapi.document(root),
    }


def write(root: Path) -> list[Path]:
    """Writes the generated files; returns those that changed."""
    stale = [(path, text) for path, text in generate(root).items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return [path for path, _ in stale]


def load_settings_classes(root: Path) -> dict[str, type[BaseSettings]]:
    """The settings class of each module."""
    found: dict[str, type[BaseSettings]] = {}
    for module in MODULES:
        with importable(root, module):
            found[module] = importlib.import_module("app.core.config").Settings
    return found


def names_module(classes: Mapping[str, type[BaseSettings]]) -> str:
    names = sorted({name.upper() for cls in classes.values() for name in cls.model_fields})
    return NAMES_HEAD + "".join(f'        "{name}",\n' for name in names) + "    }\n)\n"


def settings_page(classes: Mapping[str, type[BaseSettings]]) -> str:
    parts = [SETTINGS_HEAD]
    for owner, title in SHARED.items():
        users = {module: cls for module, cls in classes.items() if issubclass(cls, owner)}
        some = "" if len(users) == len(classes) else f" ({', '.join(users)})"
        parts.append(f"## {title}{some}\n")
        parts.append("".join(_entry(name, owner, users) for name in _own_fields(owner)))
    for module, cls in classes.items():
        own = [name for base in _own_bases(cls) for name in _own_fields(base)]
        inherited = {name for owner in SHARED for name in owner.model_fields}
        parts.append(f"## {module}\n")
        parts.append("".join(_entry(name, cls, {module: cls}) for name in own if name not in inherited))
    return "\n".join(parts)


def _own_bases(cls: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    """The class and those of its bases that only its module has."""
    yield cls
    for base in cls.__mro__[1:]:
        if issubclass(base, BaseSettings) and base is not BaseSettings and base not in SHARED:
            yield base


def _own_fields(cls: type[BaseSettings]) -> list[str]:
    """The fields that the class itself declares, in its order."""
    return [name for name in cls.model_fields if name in inspect.get_annotations(cls)]


def _entry(name: str, owner: type[BaseSettings], users: Mapping[str, type[BaseSettings]]) -> str:
    field = owner.model_fields[name]
    unit = next((unit for suffix, unit in UNITS.items() if name.upper().endswith(suffix)), "")
    facts = [_type_of(field, unit), _default_of(field, unit)]
    facts += [
        f"{module}: {_default_of(cls.model_fields[name], unit).removeprefix('default ')}"
        for module, cls in users.items()
        if cls.model_fields[name].default != field.default
    ]
    meaning = " ".join((field.description or "").split())
    text = f"- **`{name.upper()}`** ({', '.join(fact for fact in facts if fact)})" + (f": {meaning}" if meaning else "")
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) + "\n"


def _type_of(field: FieldInfo, unit: str) -> str:
    words = _words(field.annotation)
    kind = unit if unit and words in ("integer", "number") else words
    bounds = [
        f"{word} {_number(getattr(limit, sign), unit)}"
        for limit in field.metadata
        for sign, word in (("gt", "more than"), ("ge", "at least"), ("le", "at most"))
        if getattr(limit, sign, None) is not None
        and not (sign == "ge" and getattr(limit, sign) == 0)
        and not (sign == "gt" and getattr(limit, sign) == 0)
    ]
    return " ".join([kind, *bounds])


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _words(next(one for one in get_args(annotation) if one is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    if origin is list:
        return "comma-separated list"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    names = {SecretStr: "secret", bool: "`true` or `false`", int: "integer", float: "number", Path: "path"}
    return names.get(annotation, "text")


def _default_of(field: FieldInfo, unit: str) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, [], "", PydanticUndefined):
        return ""
    return f"default {_number(field.default, unit)}"


def _number(value: object, unit: str) -> str:
    """Bytes also in powers of two: 8388608 is easier to read as 8 MiB."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if not unit.startswith("bytes"):
            return str(value) if isinstance(value, int) else f"{value:g}"
        for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value >= 1 << power and value % (1 << power) == 0:
                return f"{value} ({int(value) >> power} {unit})"
        return str(value)
    return f"`{value}`"


def errors_page() -> str:
    by_status = sorted(errors.BY_CODE.values(), key=lambda cls: (cls.status, cls.code))
    return "\n".join([ERRORS_HEAD, *_errors(by_status)])


def _errors(classes: Iterable[type[errors.ArtStoreError]]) -> Iterator[str]:
    for cls in classes:
        meaning = " ".join((cls.__doc__ or "").split())
        text = f"**{cls.title}.** {meaning} *Remedy:* {cls.remedy}"
        body = textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
        yield f"## {cls.status} `{cls.code}`\n\n{body}\n"
