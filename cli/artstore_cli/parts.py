"""What the launcher starts and watches: each part with how to run it and how to tell that it is ready."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from artstore.postgres_wheel import CannotRun, find_account, load_program

from . import postgres, seaweed, valkey
from .fleet import POSTGRES, SEAWEEDFS, STORES, VALKEY, Service, Site, fleet, surrounded
from .ports import LOOPBACK
from .processes import Command
from .refusal import Refused

READY_TIMEOUT_S = 2
"""For one answer of /health/ready, which is kept by a background loop and instant."""


@dataclass(frozen=True, slots=True)
class Part:
    """A process of the system. `find_unready` takes its pid: the checks that fail with their texts, none when it is ready."""

    name: str
    command: Callable[[], Command]
    find_unready: Callable[[int], dict[str, str]]
    needs: Sequence[str] = ()
    url: str = ""
    port: int | None = None
    """Of a service that answers /health/ready."""


def stores(site: Site, ports: Mapping[str, int]) -> list[Part]:
    """PostgreSQL (its data folder made first, if need be), Valkey, and SeaweedFS when it is wanted."""
    data = site.data
    try:
        account = find_account(data.postgres)
        program = load_program(account)
    except CannotRun as error:
        raise Refused(str(error)) from None
    postgres.initialise(data.postgres, program, account, _secret(site, "postgres-password"))
    password = _secret(site, "redis-password")
    parts = [
        Part(
            POSTGRES,
            lambda: postgres.serve(data.postgres, program, account, ports[POSTGRES], data.log(POSTGRES)),
            lambda pid: _unready_unless(postgres.is_ready(data.postgres, pid)),
        ),
        Part(
            VALKEY,
            lambda: valkey.serve(data.valkey, ports[VALKEY], password, data.log(VALKEY)),
            lambda _: _unready_unless(valkey.is_ready(ports[VALKEY], password)),
        ),
    ]
    if site.s3_port is not None:
        identities = data.keys / "s3-identities.json"
        parts.append(
            Part(
                SEAWEEDFS,
                lambda: seaweed.serve(data.seaweedfs, ports, identities, data.log(SEAWEEDFS)),
                lambda _: _unready_unless(seaweed.is_ready(ports)),
            )
        )
    return parts


def port_names(s3: bool) -> Sequence[str]:
    """Of the ports that nobody outside has to know."""
    return (*STORES, *seaweed.PORTS) if s3 else STORES


def services(site: Site) -> list[Part]:
    return [_service(site, service) for service in fleet(site)]


def _service(site: Site, service: Service) -> Part:
    port = site.port_base + service.port_offset
    own = {**service.environment(site), "PYTHONPATH": str(site.root / "shared"), "PYTHONUNBUFFERED": "1"}
    folder = site.root / service.module

    def command() -> Command:
        arguments = [sys.executable, "-m", "app.main"]
        return Command(arguments, surrounded(own, os.environ), folder, site.data.log(service.name))

    return Part(
        service.name, command, lambda _: unready_checks(port), service.needs, site.url(service.port_offset), port
    )


def _unready_unless(ready: bool) -> dict[str, str]:
    return {} if ready else {"": "does not answer yet"}


def unready_checks(port: int) -> dict[str, str]:
    """The checks that keep a service from being ready, with their details; empty when it is. No answer is a check too."""
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
    """In one line."""
    return "; ".join(f"{name}: {detail}" if name else detail for name, detail in unready.items())


def _secret(site: Site, name: str) -> str:
    return (site.data.keys / name).read_text()
