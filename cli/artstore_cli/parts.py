"""The processes of a local system: how each is started, and how its readiness is determined."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artstore.local import caddy, postgres, seaweedfs, valkey
from artstore.local.fork_server import ForkServer
from artstore.local.ports import LOOPBACK

from .data_folder import GATEWAY_OFFSET, DataFolder
from .errors import CommandError, disk_error
from .fleet import (
    GATEWAY,
    POSTGRES,
    SEAWEEDFS,
    STORES,
    VALKEY,
    Service,
    Site,
    allow_logins,
    fleet,
    gateway_upstreams,
    merge_environment,
    own_port_names,
    trust_gateway,
)
from .processes import Command, ForkCommand

CONNECTIONS_OF_A_SERVICE = 32
"""Its pool of at most 20 and 10 more, a migration, and a user with psql."""
READY_TIMEOUT_S = 2
"""For one answer of /health/ready, which a background loop keeps up to date."""


@dataclass(frozen=True, slots=True)
class Part:
    """A process of the system. `find_unready` takes its pid and returns the failing checks with their texts."""

    name: str
    command: Callable[[], Command | ForkCommand]
    find_unready: Callable[[int], dict[str, str]]
    needs: Sequence[str] = ()
    url: str = ""
    port: int | None = None
    """The port at which this process alone answers /health/ready, for a service."""


def stores(site: Site, ports: Mapping[str, int]) -> list[Part]:
    """PostgreSQL (its cluster is created first, if need be), Valkey, and SeaweedFS if the site uses S3."""
    data = site.data
    try:
        account = postgres.find_account(data.postgres)
        program = postgres.load_program(account)
        postgres.create_cluster(data.postgres, program, account, _secret(site, "postgres-password"))
    except postgres.CannotRun as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise disk_error(error, data.postgres) from error
    password = _secret(site, "redis-password")
    connections = max(postgres.MAX_CONNECTIONS, len(fleet(site)) * CONNECTIONS_OF_A_SERVICE)
    parts = [
        Part(
            POSTGRES,
            lambda: serve_postgres(data, program, account, ports[POSTGRES], connections),
            lambda pid: _unready_unless(postgres.is_ready(data.postgres, pid)),
        ),
        Part(
            VALKEY,
            lambda: serve_valkey(data, ports[VALKEY], password),
            lambda _: _unready_unless(valkey.is_ready(ports[VALKEY], password)),
        ),
    ]
    if site.s3_port is not None:
        parts.append(
            Part(
                SEAWEEDFS,
                lambda: serve_seaweedfs(data, ports),
                lambda _: _unready_unless(seaweedfs.is_ready(ports)),
            )
        )
    return parts


def serve_postgres(
    data: DataFolder,
    program: Path,
    account: postgres.Account | None,
    port: int,
    connections: int = postgres.MAX_CONNECTIONS,
) -> Command:
    """SIGINT is PostgreSQL's fast shutdown: it disconnects clients and loses nothing."""
    command, log = postgres.server_command(program, port, max_connections=str(connections)), data.log(POSTGRES)
    return Command(command, postgres.ENVIRONMENT, data.postgres, log, signal.SIGINT, account)


def serve_valkey(data: DataFolder, port: int, password: str) -> Command:
    """On SIGTERM Valkey saves its data and ends."""
    configuration = valkey.write_configuration(data.valkey, port, password)
    command = [str(valkey.find_server()), str(configuration)]
    return Command(command, valkey.ENVIRONMENT, data.valkey, data.log(VALKEY))


def serve_seaweedfs(data: DataFolder, ports: Mapping[str, int]) -> Command:
    folder = data.seaweedfs
    folder.mkdir(mode=0o700, exist_ok=True)
    command = seaweedfs.command(folder, ports, data.keys / "s3-identities.json")
    return Command(command, seaweedfs.environment(folder), folder, data.log(SEAWEEDFS))


def port_names(s3: bool, scale: Mapping[str, int]) -> Sequence[str]:
    """The internal ports."""
    own = [name for names in own_port_names(scale).values() for name in names]
    return (*STORES, *own, *(seaweedfs.PORTS if s3 else ()))


def fork_server(site: Site) -> ForkServer:
    return ForkServer(sorted({site.root / service.module for service in fleet(site)}))


def services(site: Site, server: ForkServer) -> list[Part]:
    """The services, and the gateway in front of them."""
    behind = [_service(site, service, server) for service in fleet(site)]
    port = site.port_base + GATEWAY_OFFSET
    gateway = Part(
        GATEWAY,
        lambda: serve_gateway(site, port),
        lambda _: unready_checks(port),
        [part.name for part in behind],
        site.url(GATEWAY_OFFSET),
        port,
    )
    return [*behind, gateway]


def serve_gateway(site: Site, port: int) -> Command:
    """On SIGTERM Caddy gives running requests the time that the services give them."""
    folder = site.data.gateway
    folder.mkdir(mode=0o700, exist_ok=True)
    source = site.root / "gateway"
    environment = caddy.environment(source, folder, port, gateway_upstreams(site))
    environment["GATEWAY_TRUSTED_PROXIES"] = os.environ.get("GATEWAY_TRUSTED_PROXIES", "")
    return Command(caddy.command(source), environment, folder, site.data.log(GATEWAY))


def _service(site: Site, service: Service, server: ForkServer) -> Part:
    port = service.own_port or site.port_base + service.port_offset

    def command() -> ForkCommand:
        environment = merge_environment(service.environment(site), os.environ)
        environment = allow_logins(site, service, trust_gateway(service, environment))
        return ForkCommand(server, site.root / service.module, environment, site.data.log(service.name))

    return Part(
        service.name, command, lambda _: unready_checks(port), service.needs, site.url(service.port_offset), port
    )


def _unready_unless(ready: bool) -> dict[str, str]:
    return {} if ready else {"": "does not answer yet"}


def unready_checks(port: int) -> dict[str, str]:
    """The failing readiness checks of a service with their details; empty when it is ready. No answer counts as a check."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=READY_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return {"": "no answer"}
    finally:
        connection.close()
    return {} if answer.status == 200 else _failing(body) or {"": f"status {answer.status}"}


def _failing(body: bytes) -> dict[str, str]:
    try:
        checks = json.loads(body)["checks"]
        return {
            str(name): str(check.get("detail", ""))[:200]
            for name, check in checks.items()
            if check.get("ok") is not True and check.get("required") is not False
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def describe(unready: Mapping[str, str]) -> str:
    """The failing checks in one line."""
    return "; ".join(f"{name}: {detail}" if name else detail for name, detail in unready.items())


def _secret(site: Site, name: str) -> str:
    return (site.data.keys / name).read_text()
