"""Settings: environment variables read once into a frozen object; a bad one stops the start with one clear line.

Every secret may also come as NAME_FILE. A name that looks like one of ours and is none is a spelling mistake, and refused.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from artstore import safe_secrets
from artstore.errors import fault_text
from artstore.http.body import BodyLimits, BodyRateLimits
from artstore.http.connections import MAX_CONNECTIONS
from artstore.limits.settings import LimitSettings
from artstore.log_sink import write_last
from artstore.redis_cluster import ClusterUrl, is_cluster
from artstore.safe_secrets import check_private
from artstore.setting_names import SETTING_NAMES

REMOVED = frozenset(
    {
        "CACHE_ABSENT_TTL_S",
        "CACHE_CATALOG_TTL_S",
        "CACHE_REDIS_TTL_S",
        "DATABASE_POOL_RECYCLE_S",
        "IP_RATE_LIMIT_BURST",
        "LIMIT_IN_FLIGHT",
        "PEER_CONNECT_TIMEOUT_S",
        "REDIS_CONNECT_TIMEOUT_S",
        "REDIS_MAX_CONNECTIONS",
        "S3_CONNECT_TIMEOUT_S",
        "S3_PARTS_AT_ONCE",
        "S3_PART_BYTES",
        "SAGA_KEEP_FINISHED_S",
        "SECRET_GRACE_S",
        "SIGNING_KEY_BITS",
        "SIGNING_KEY_CHECK_EVERY_S",
        "SIGNING_KEY_GRACE_S",
        "SIGNING_KEY_PUBLISH_LEAD_S",
        "STORAGE_RESERVE_INODES",
        "STORAGE_RESERVE_PERCENT",
        "STORAGE_SMALL_FILE_BYTES",
        "STORAGE_WAL_MAX_SEGMENTS",
    }
)
"""Settings of earlier versions. A start that still has one logs a warning and goes on (CHANGELOG.md)."""
OWN_PREFIXES = ("STORAGE_", "S3_", "SERVICE_CLIENT_")
"""An unknown name with one of these prefixes is a mistake. Other programs use REDIS_… and DATABASE_… as well: with those
only a near miss of a known name is refused."""
NEAR_MISS = 0.85
"""Likeness (difflib ratio) from which an unknown name counts as a misspelt one."""

LEVEL_NAMES = {
    "warn": "warning",
    "err": "error",
    "fatal": "critical",
    "crit": "critical",
    "notice": "info",
    "trace": "debug",
}
COMMON_WORDS = frozenset({"HOST", "PORT"})
"""Too common to guess a misspelling of: PORTS and HOSTS belong to other programs."""
INJECTED_NAME = re.compile(
    r"[A-Z0-9_]+_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"  # Kubernetes, a pair for each service
    r"|[A-Z0-9_]+_PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO|START|END|PORT_START|PORT_END))?"  # Docker links, and Kubernetes
    r"|[A-Z0-9_]+_ENV_[A-Za-z0-9_]+"  # Docker links: the environment of the linked container
)
LINKED_NAME = re.compile(r"/[\w.-]+/[\w.-]+")
INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://")

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
PublicUrl = Annotated[
    str, Field(pattern=r"^https?://[^/?#\s]+/?$", max_length=255), AfterValidator(lambda url: url.rstrip("/"))
]
"""An address that answers give to clients, without a path."""


BEHAVIOUR = SettingsConfigDict(
    frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, use_attribute_docstrings=True
)
"""Repeated by every class below: pydantic takes the configuration of the last base class."""


class ServiceSettings(LimitSettings):
    """Settings of every service. The environment name is the field's name in upper case."""

    model_config = BEHAVIOUR

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` inside a container."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """TCP port to listen on."""
    own_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """A second port, when several processes of one machine share `PORT`: the kernel spreads connections to `PORT`
    over them, and each process alone is reached here, for instance its `/metrics`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """Lowest level that is logged, in any case; short names such as `warn` are accepted."""
    log_format: Literal["json", "text"] = "json"
    """`json` for machines, `text` for people."""
    cors_allowed_origins: Annotated[list[str], NoDecode] = Field(default=[])
    """Origins of web pages that may call the API."""
    public_url: PublicUrl | None = None
    """Address at which clients reach the system, such as `https://files.example.org`: signed links begin with it, and the
    login of `/docs` and `/.well-known/oauth-authorization-server` name it. Without it the address that the request names is
    used."""
    otel_exporter_otlp_endpoint: str | None = None
    """OTLP/HTTP endpoint that receives the traces. Without it nothing is exported."""
    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the traces begun here that is sampled; a caller's decision is kept."""
    audit_folder: Path | None = None
    """Folder for audit events that PostgreSQL has not received yet, and for the signing key of this writer.
    Without it both are lost at a restart."""
    max_connections: Count = MAX_CONNECTIONS
    """Connections open at once in this process. At the limit an idle one is closed for a new one; if none is idle,
    the new one is answered 503. The process's hard limit of open files must be higher."""
    shutdown_timeout_s: Annotated[int, Field(gt=0)] = 10
    """How long running requests may take to end after SIGTERM."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)

    @field_validator("*", mode="before")
    @classmethod
    def _ignore_case(cls, value: Any, info: ValidationInfo) -> Any:
        """A setting with a closed set of words takes each of them in any case."""
        if not isinstance(value, str) or info.field_name is None:
            return value
        words = {word.casefold(): word for word in _words_of(cls.model_fields[info.field_name].annotation)}
        word = value.strip().casefold()
        if info.field_name == "log_level":
            word = LEVEL_NAMES.get(word, word)
        return words.get(word, value)

    @field_validator("cors_allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [origin.strip() for origin in value.split(",") if origin.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, FileSource(settings_cls)


def _words_of(annotation: Any) -> list[str]:
    """The values of a Literal of strings or of a string enum; empty for every other type."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return [member.value for member in annotation]
    return [word for word in get_args(annotation) if isinstance(word, str)] if get_origin(annotation) is Literal else []


class DatabaseSettings(BaseSettings):
    """PostgreSQL. One pool per process; the server's max_connections must cover the sum of all pools."""

    model_config = BEHAVIOUR

    database_url: SecretStr
    """`postgresql+asyncpg://USER:PASSWORD@HOST[:PORT][,HOST…]/DATABASE`; with several hosts add
    `?target_session_attrs=read-write`."""
    database_pool_size: Count = 20
    """Connections that the pool keeps. PostgreSQL's `max_connections` must cover the pools of all processes."""
    database_max_overflow: Annotated[int, Field(ge=0)] = 10
    """Connections that the pool may open beyond its size for a short time."""
    database_connect_timeout_s: Seconds = 3
    """Limit for opening a connection."""
    database_command_timeout_s: Seconds = 10
    """Limit for one statement, and for a free connection of the pool."""


class RedisSettings(BaseSettings):
    """Redis or Valkey. One pool per process."""

    model_config = BEHAVIOUR

    redis_url: SecretStr
    """`redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, with TLS `rediss://`. A Redis Cluster:
    `redis+cluster://[[USER]:PASSWORD@]HOST[:PORT][,HOST…]` (`rediss+cluster://`) with some of its nodes, best all."""
    redis_timeout_s: Seconds = 1
    """Limit for one command, tried twice, and for a free connection of the pool."""

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: SecretStr) -> SecretStr:
        value = url.get_secret_value()
        if is_cluster(value):
            ClusterUrl(value)
        elif not value.startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis://, rediss://, redis+cluster:// or rediss+cluster://")
        return url


class AdminClientSettings(BaseSettings):
    """Settings of a module that calls admin with an account of its own."""

    model_config = BEHAVIOUR

    admin_url: str
    """Address of admin."""
    service_client_id: Annotated[str, Field(min_length=1)]
    """Client id of the module's own account."""
    service_client_secret: Annotated[SecretStr, Field(min_length=32)]
    """Client secret of the module's own account."""
    peer_timeout_s: Seconds = 10
    """Limit for a call to admin, for instance for a saga or a token."""
    jwks_file: Path | None = None
    """File that keeps the last valid public keys, for a start while admin and Redis are unavailable."""
    kept_token_file: Path | None = None
    """File that keeps the module's own access token (mode 0600), for a start while admin or PostgreSQL is unavailable."""
    jwks_refresh_s: Annotated[float, Field(gt=0, le=30)] = 15
    """Interval at which public keys and revocations are fetched; a suspension must reach every service within a
    minute."""


class ModuleSettings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """Settings of every module but admin."""


class DiscoverySettings(BaseSettings):
    """The registry of elements, while neither Redis nor admin answers."""

    model_config = BEHAVIOUR

    discovery_file: Path | None = None
    """File that keeps the last known registry of elements, for a start while Redis and admin are unavailable."""
    storage_elements: str | None = None
    """The registry as JSON, used while no other source has answered."""


class ReadAuditSettings(BaseSettings):
    """A setting of the services that answer reads."""

    model_config = BEHAVIOUR

    audit_reads: bool = False
    """Record each download and each read of a file's attributes in the audit log, as `file:read`, before it is answered. A
    read that cannot be recorded is refused."""


class TransferSettings(BaseSettings):
    """How slowly the other side may send or read a file."""

    model_config = BEHAVIOUR

    body_idle_timeout_s: Seconds = 30
    """A client that sends nothing, or reads nothing beyond the time that the minimum rate allows for what it has
    read, is disconnected after this long."""
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    """A client that sends or reads a file more slowly is disconnected; 0 for no minimum."""

    @property
    def body_rate(self) -> BodyRateLimits:
        return BodyRateLimits(self.body_idle_timeout_s, self.body_min_rate_bytes_per_s)


class UploadSettings(TransferSettings):
    """Files that are received."""

    model_config = BEHAVIOUR

    max_file_size_bytes: Count = 5 * 2**30
    """Largest file that is accepted."""

    @property
    def body_limits(self) -> BodyLimits:
        return BodyLimits(self.max_file_size_bytes, self.body_rate)


class FileSource(PydanticBaseSettingsSource):
    """NAME_FILE: the value is the file's content without the last line end. Only for secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{field_name.upper()}_FILE", "")
        if not path or not is_secret(field):
            return None, field_name, False
        try:
            check_private(Path(path), f"{field_name.upper()}_FILE")
            return Path(path).read_text().rstrip("\r\n"), field_name, False
        except OSError as error:
            raise ValueError(f"{field_name.upper()}_FILE cannot be read: {error.strerror}: {path}") from error

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def is_secret(field: FieldInfo) -> bool:
    """A secret is a field typed SecretStr, optional or not."""
    return "SecretStr" in str(field.annotation)


S = TypeVar("S", bound=BaseSettings)


def load_settings(cls: type[S]) -> S:
    """The settings from the environment, or one line on standard error and exit status 2."""
    misspelt = find_misspelt(os.environ)
    if misspelt:
        name, meant = misspelt[0]
        _refuse(f"unknown setting {name}" + (f": did you mean {meant}?" if meant else ""))
    try:
        settings = cls()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        _refuse("; ".join(fault_text(".".join(map(str, one["loc"])).upper(), one) for one in found))
    except ValueError as error:
        _refuse(str(error))
    unsafe = find_unsafe(settings)
    if unsafe:
        _refuse("; ".join(unsafe))
    return settings


def find_unsafe(settings: BaseSettings) -> list[str]:
    """One line for each secret that a service must not start with."""
    secrets = {name: getattr(settings, name) for name in type(settings).model_fields}
    return [
        f"{name.upper()} {fault}"
        for name, value in secrets.items()
        if isinstance(value, SecretStr)
        and not name.endswith("_key_id")  # the name of a key may be shown
        and (fault := safe_secrets.find_fault(value.get_secret_value()))
    ]


def find_misspelt(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs (name in the environment, the setting probably meant or '')."""
    known = SETTING_NAMES | {f"{name}_FILE" for name in SETTING_NAMES}
    found: list[tuple[str, str]] = []
    for name in sorted(environment):
        if name in known | REMOVED or name != name.upper() or _is_injected(name, environment[name]):
            continue
        near = [one for one in difflib.get_close_matches(name, known, n=3, cutoff=NEAR_MISS) if one not in COMMON_WORDS]
        own = name.startswith(OWN_PREFIXES)
        if own or (near and name not in known_to_others(known)):
            found.append((name, near[0] if near else ""))
    return found


def find_removed(environment: Mapping[str, str]) -> list[str]:
    """Names in the environment that were settings of an earlier version and have no effect."""
    return sorted(REMOVED & environment.keys())


def known_to_others(known: Iterable[str]) -> set[str]:
    """Names of other programs that differ from ours as URI does from URL."""
    return {name.replace("_URL", "_URI") for name in known if name.endswith("_URL")}


def _is_injected(name: str, value: str) -> bool:
    """Kubernetes and Docker describe other services by these, under names that come from the services' own."""
    if name.endswith("_PORT"):
        return bool(INJECTED_PORT.match(value)) or bool(INJECTED_NAME.fullmatch(name))
    if name.endswith("_NAME"):
        return bool(LINKED_NAME.fullmatch(value))
    return bool(INJECTED_NAME.fullmatch(name))


def _refuse(why: str) -> NoReturn:
    write_last(f"artstore: cannot start: {' '.join(why.split())}\n")
    raise SystemExit(2)
