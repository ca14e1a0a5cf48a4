"""The system of docker-compose.yml, seen from a container: its volumes are folders here, PostgreSQL and S3 are on the network.

`ELEMENTS` has a folder for each element, which is its volume; the root is `store` in it. The volumes are read-only for a
backup, and writable for a restore, which also gets the login that owns the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import Field, SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.config import ServiceSettings
from artstore.redis_cluster import ClusterUrl

from ..errors import CommandError
from .database import Login, parse_login, restore_beside, retried
from .s3_files import S3Access

ELEMENTS, BACKUPS = Path("/elements"), Path("/backups")
ROOT = "store"
ANSWER_TIMEOUT_S = 10


class BackupSettings(ServiceSettings):
    """Settings of the services `backup` and `restore` of docker-compose.yml. Each secret may come as NAME_FILE."""

    port: int = 0
    """Not used, because this program does not listen."""
    database_url: SecretStr
    """For a backup a login that reads everything. For a restore the login that owns the database."""
    redis_url: SecretStr | None = None
    """For a restore only: Redis is emptied together with the database."""
    s3_endpoint_url: str | None = None
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_region: str = "us-east-1"
    backup_at: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "02:30"
    """Time of day of the daily backup, in UTC."""
    backup_keep: Annotated[int, Field(ge=1)] = 14
    """Complete backups that are kept."""
    backup_s3: bool = True
    """False: files in S3 are not copied, and the backup names their bucket."""


def _require_answer(url: str) -> None:
    """A request of any kind: one without a signature is refused."""
    try:
        httpx.get(url, timeout=ANSWER_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise CommandError(f"S3 does not answer: {error or type(error).__name__}") from None


class ContainerSystem:
    keys = None

    def __init__(self, settings: BackupSettings, elements: Path = ELEMENTS) -> None:
        self._settings, self._elements = settings, elements

    def require_whole(self) -> None:
        if not self.roots():
            raise CommandError(f"no volume of an element is mounted below {self._elements}")

    def refuse_target(self, target: Path) -> None:
        if target.resolve().is_relative_to(self._elements.resolve()):
            raise CommandError(f"{target} is inside the data")

    def roots(self) -> Mapping[str, Path]:
        return {path.name: path / ROOT for path in sorted(self._elements.iterdir()) if path.is_dir()}

    @contextmanager
    def database(self) -> Iterator[Login]:
        yield parse_login(self._settings.database_url.get_secret_value())

    @contextmanager
    def s3(self) -> Iterator[S3Access]:
        given = self._settings
        if given.s3_endpoint_url is None or given.s3_access_key_id is None or given.s3_secret_access_key is None:
            raise CommandError(
                "an element keeps its files in S3: set S3_ENDPOINT_URL, _ACCESS_KEY_ID, _SECRET_ACCESS_KEY"
            )
        key, secret = given.s3_access_key_id.get_secret_value(), given.s3_secret_access_key.get_secret_value()
        retried(partial(_require_answer, given.s3_endpoint_url))
        yield S3Access(given.s3_endpoint_url, key, secret, given.s3_region)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """An element that runs holds the lock of its root; that no other module runs is seen at the database."""
        yield

    def place_of(self, element_id: str) -> Path:
        if not (self._elements / element_id).is_dir():
            raise CommandError(
                f"the backup holds {element_id}, which has no volume here: mount one at {self._elements / element_id},"
                " or name the other parts"
            )
        return self._elements / element_id / ROOT

    def aside(self, place: Path, moment: str) -> Path:
        return place.parent / f"replaced-{moment}"

    def restore_database(self, dump: Path, moment: str) -> str:
        replaced = f"artstore_replaced_{moment}"
        retried(partial(self._on_redis, "PING"))
        restore_beside(parse_login(self._settings.database_url.get_secret_value()), dump, replaced)
        self._on_redis("FLUSHALL")  # its caches may know later rows
        return f"database {replaced}"

    def _on_redis(self, command: str) -> None:
        if self._settings.redis_url is None:
            raise CommandError("a restore needs REDIS_URL: Redis is emptied together with the database")
        try:
            asyncio.run(_on_each_server(self._settings.redis_url.get_secret_value(), command))
        except (OSError, RedisError) as error:
            raise CommandError(f"Redis does not answer: {error}") from None


async def _on_each_server(url: str, command: str) -> None:
    """A cluster has its keys at all of its masters."""
    urls = await _masters_of(ClusterUrl(url)) if "+cluster://" in url else [url]
    for one in urls:
        async with Redis.from_url(one, socket_timeout=ANSWER_TIMEOUT_S) as redis:
            await redis.execute_command(command)


async def _masters_of(cluster: ClusterUrl) -> list[str]:
    """Raises the error of the last seed when none answers."""
    failure: Exception = OSError("no server is named")
    for seed in cluster.seeds:
        try:
            async with Redis.from_url(cluster.of_node(seed), socket_timeout=ANSWER_TIMEOUT_S) as redis:
                nodes = await redis.execute_command("CLUSTER NODES")
        except (OSError, RedisError) as error:
            failure = error
            continue
        return [cluster.of_node(address) for address in _masters_in(nodes)]
    raise failure


def _masters_in(nodes: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for address, node in nodes.items():
        if "master" in str(node["flags"]):
            host, _, port = address.rpartition(":")
            yield host, int(port)
