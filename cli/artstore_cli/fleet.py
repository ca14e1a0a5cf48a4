"""The local system as data: its services with their ports, settings and dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from artstore.local import caddy
from artstore.local.ports import LOOPBACK
from artstore.local.seaweedfs import BUCKET

from .data_folder import GATEWAY_OFFSET, DataFolder
from .errors import CommandError

POSTGRES, VALKEY, SEAWEEDFS, GATEWAY = "postgres", "valkey", "seaweedfs", "gateway"
STORES = (POSTGRES, VALKEY)
DATABASE_LOGINS = {
    "admin-module": "admin",
    "storage-element": "element",
    "ingester-module": "ingester",
    "query-module": "query",
}
"""The suffix of database-url-… by module, as keys/generate.py names the files."""


@dataclass(frozen=True, slots=True)
class Site:
    """The location of this system: source, data folder, ports."""

    root: Path
    data: DataFolder
    port_base: int
    s3_port: int | None = None
    """Set when se-03 stores its files in S3."""
    own_ports: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By service that runs as several processes on one port: the port at which each alone is reached."""

    def url(self, offset: int) -> str:
        return f"http://{LOOPBACK}:{self.port_base + offset}"

    def key(self, name: str) -> str:
        return str(self.data.keys / name)

    def known(self, name: str) -> str:
        return str(self.data.known / name)


@dataclass(frozen=True, slots=True)
class Service:
    """One of ArtStore's processes. It starts when the parts named in `needs` are ready."""

    name: str
    module: str
    port_offset: int
    settings: Mapping[str, str]
    needs: Sequence[str]
    own_port: int | None = None

    def environment(self, site: Site) -> dict[str, str]:
        common = {
            "HOST": LOOPBACK,
            "PORT": str(site.port_base + self.port_offset),
            "DATABASE_URL_FILE": site.key(f"database-url-{DATABASE_LOGINS[self.module]}"),
            "REDIS_URL_FILE": site.key("redis-url"),
            "AUDIT_FOLDER": site.known(f"{self.name}-audit"),
        }
        if self.own_port is not None:
            common["OWN_PORT"] = str(self.own_port)
        return {**common, **self.settings}


@dataclass(frozen=True, slots=True)
class Element:
    """A storage element of the default system."""

    id: str
    port_offset: int
    mode: str
    priority: int


ELEMENTS = (Element("se-01", 10, "edit", 10), Element("se-02", 11, "rw", 20), Element("se-03", 12, "rw", 30))
ADMIN_OFFSET, INGESTER_OFFSET, QUERY_OFFSET = 0, 20, 30
SCALABLE = ("admin", "ingester", "query")
MAX_PROCESSES = 16


def fleet(site: Site) -> list[Service]:
    """All services, each after its dependencies."""
    admins = _processes(site, Service("admin", "admin-module", ADMIN_OFFSET, _admin(site), STORES))
    needed = tuple(admin.name for admin in admins)
    elements = [_element(site, element, (*STORES, *needed)) for element in ELEMENTS]
    needed = (*needed, *(element.name for element in elements))
    callers = [
        process
        for name, offset in (("ingester", INGESTER_OFFSET), ("query", QUERY_OFFSET))
        for process in _processes(site, Service(name, f"{name}-module", offset, _caller(site, name), needed))
    ]
    return [*admins, *elements, *callers]


def _processes(site: Site, service: Service) -> list[Service]:
    """`ingester`, `ingester-2` and so on."""
    ports = site.own_ports.get(service.name)
    if not ports:
        return [service]
    return [
        replace(service, name=service.name if number == 1 else f"{service.name}-{number}", own_port=port)
        for number, port in enumerate(ports, 1)
    ]


def _admin(site: Site) -> dict[str, str]:
    return {
        "DATABASE_OWNER_URL_FILE": site.key("database-url"),
        "DATABASE_ROLES_FILE": site.key("database-roles.json"),
        "KEY_ENCRYPTION_KEY_FILE": site.key("key-encryption-key"),
        "SECRET_HASH_KEY_FILE": site.key("secret-hash-key"),
        "BOOTSTRAP_ACCOUNTS_FILE": site.key("accounts.json"),
    }


def _client(site: Site, client_id: str) -> dict[str, str]:
    """The settings of every module with a service account."""
    return {
        "ADMIN_URL": site.url(ADMIN_OFFSET),
        "SERVICE_CLIENT_ID": client_id,
        "SERVICE_CLIENT_SECRET_FILE": site.key(f"{client_id}.secret"),
        "JWKS_FILE": site.known(f"{client_id}-jwks.json"),
        "KEPT_TOKEN_FILE": site.known(f"{client_id}-token.json"),
    }


def _caller(site: Site, client_id: str) -> dict[str, str]:
    settings = {**_client(site, client_id), "DISCOVERY_FILE": site.known(f"{client_id}-elements.json")}
    return {**settings, "QUERY_URL": site.url(GATEWAY_OFFSET)} if client_id == "ingester" else settings


def _element(site: Site, element: Element, needs: tuple[str, ...]) -> Service:
    settings = {
        **_client(site, element.id),
        "STORAGE_ELEMENT_ID": element.id,
        "STORAGE_MODE": element.mode,
        "STORAGE_PRIORITY": str(element.priority),
        "STORAGE_ROOT": str(site.data.elements / element.id),
        "ELEMENT_URL": site.url(element.port_offset),
        "STORAGE_BACKEND": "local",
    }
    if element.id == "se-03" and site.s3_port is not None:
        settings |= {
            "STORAGE_BACKEND": "s3",
            "S3_ENDPOINT_URL": f"http://{LOOPBACK}:{site.s3_port}",
            "S3_BUCKET": BUCKET,
            "S3_PREFIX": element.id,
            "S3_ACCESS_KEY_ID_FILE": site.key("s3-access-key-id"),
            "S3_SECRET_ACCESS_KEY_FILE": site.key("s3-secret-access-key"),
        }
        needs = (*needs, SEAWEEDFS)
    return Service(element.id, "storage-element", element.port_offset, settings, needs)


def gateway_upstreams(site: Site) -> dict[str, list[str]]:
    """By service behind the gateway, the addresses of all its processes."""
    ports = {"admin": ADMIN_OFFSET, "ingester": INGESTER_OFFSET, "query": QUERY_OFFSET}
    return {
        name: [f"{LOOPBACK}:{port}" for port in site.own_ports.get(name) or [site.port_base + offset]]
        for name, offset in ports.items()
    }


def trust_gateway(service: Service, environment: Mapping[str, str]) -> dict[str, str]:
    """Adds the gateway to the proxies that the user trusts; no element is behind it."""
    if service.module == "storage-element":
        return dict(environment)
    trusted = [environment.get("TRUSTED_PROXIES", ""), caddy.SOURCE]
    return {**environment, "TRUSTED_PROXIES": ",".join(filter(None, trusted))}


def allow_logins(site: Site, service: Service, environment: Mapping[str, str]) -> dict[str, str]:
    """Lets the pages /docs of all services log in at admin, which is at another port and so of another origin."""
    if service.module != "admin-module":
        return dict(environment)
    offsets = [INGESTER_OFFSET, QUERY_OFFSET, *(element.port_offset for element in ELEMENTS)]
    origins = [environment.get("CORS_ALLOWED_ORIGINS", ""), *(site.url(offset) for offset in offsets)]
    return {**environment, "CORS_ALLOWED_ORIGINS": ",".join(filter(None, origins))}


def merge_environment(own: Mapping[str, str], outer: Mapping[str, str]) -> dict[str, str]:
    """The user's variables (LOG_LEVEL, OTEL_…), overridden by the service's own. NAME and NAME_FILE are one setting."""
    names = {name.removesuffix("_FILE") for name in own}
    kept = {name: value for name, value in outer.items() if name.removesuffix("_FILE") not in names}
    return {**kept, **own}


def parse_scale(options: Sequence[str]) -> dict[str, int]:
    """The number of processes by service, from options as `ingester=2`. Raises CommandError."""
    scale: dict[str, int] = {}
    for option in options:
        name, _, count = option.partition("=")
        if name in {element.id for element in ELEMENTS}:
            raise CommandError(f"--scale {option}: a storage element is one process, because it owns its folder alone")
        if name not in SCALABLE:
            raise CommandError(f"--scale {option}: there is no service {name!r}; choose one of {', '.join(SCALABLE)}")
        if name in scale:
            raise CommandError(f"--scale {option}: the number of processes of {name} is given twice")
        if not (count.isdecimal() and 1 <= int(count) <= MAX_PROCESSES):
            raise CommandError(f"--scale {option}: give a number from 1 to {MAX_PROCESSES}, as in {name}=2")
        scale[name] = int(count)
    return scale


def own_port_names(scale: Mapping[str, int]) -> dict[str, list[str]]:
    """By service with several processes, the names of their own ports."""
    return {name: [f"{name}.{number}" for number in range(1, n + 1)] for name, n in scale.items() if n > 1}
