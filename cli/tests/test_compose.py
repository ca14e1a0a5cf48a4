"""docker-compose.yml runs the same system as `up`: elements, ports, accounts and who may read which secret."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from artstore.config import ServiceSettings
from artstore_cli.data_folder import GATEWAY_OFFSET, DataFolder
from artstore_cli.fleet import ELEMENTS, SCALABLE, Site, fleet

ROOT = Path(__file__).resolve().parents[2]
BASE = 8000
READERS = {
    "admin-module": "ADMIN",
    "storage-element": "ELEMENT",
    "ingester-module": "INGESTER",
    "query-module": "QUERY",
}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    return dict(yaml.safe_load(text)["services"])


def test_every_module_can_be_started_by_its_name(services: dict[str, dict[str, Any]]) -> None:
    assert set(READERS) <= set(services)


def test_the_elements_are_those_of_up(services: dict[str, dict[str, Any]]) -> None:
    described = [
        service["environment"]
        for service in services.values()
        if "STORAGE_ELEMENT_ID" in service.get("environment", {})
    ]
    names = ("STORAGE_ELEMENT_ID", "STORAGE_MODE", "STORAGE_PRIORITY")
    assert [tuple(one[name] for name in names) for one in described] == [
        (element.id, element.mode, str(element.priority)) for element in ELEMENTS
    ]


def test_ports_accounts_and_settings_are_those_of_up(services: dict[str, dict[str, Any]]) -> None:
    local = fleet(Site(ROOT, DataFolder(Path("/data")), BASE))
    ours = [service for service in services.values() if "profiles" not in service]
    published = {port.split(":")[-1] for service in ours for port in service.get("ports", ())} - {"8443"}
    assert published == {str(BASE + offset) for offset in (*(service.port_offset for service in local), GATEWAY_OFFSET)}
    by_client = {
        service["environment"].get("SERVICE_CLIENT_ID"): service["environment"]
        for service in services.values()
        if "environment" in service
    }
    for service in local:
        if client_id := service.settings.get("SERVICE_CLIENT_ID"):
            assert set(service.settings) - {"STORAGE_BACKEND"} <= set(by_client[client_id])


def test_a_service_that_can_be_scaled_publishes_no_port_of_the_host(services: dict[str, dict[str, Any]]) -> None:
    assert not any("ports" in services[f"{name}-module"] for name in SCALABLE)
    known = services["gateway"]["networks"]["default"]["ipv4_address"]
    for name in SCALABLE:
        assert services[f"{name}-module"]["environment"]["TRUSTED_PROXIES"].split(",")[0] == known


def test_no_running_module_gets_the_login_that_owns_the_schema(services: dict[str, dict[str, Any]]) -> None:
    local = {service.module: service.environment(Site(ROOT, DataFolder(Path("/data")), BASE))
             for service in fleet(Site(ROOT, DataFolder(Path("/data")), BASE))}  # fmt: skip
    for name, service in services.items():
        environment = service.get("environment", {})
        if name == "migrations":
            assert environment["DATABASE_OWNER_URL_FILE"] == "/keys/database-url"
        elif name == "restore":
            assert (service["profiles"], service["restart"]) == (["restore"], "no"), "it runs only when it is called"
        elif name == "backup":
            assert environment["DATABASE_URL_FILE"] == "/keys/database-url-backup"
        elif "DATABASE_URL_FILE" in environment:
            assert "DATABASE_OWNER_URL_FILE" not in environment
            module = service["build"]["dockerfile"].partition("/")[0]
            assert Path(environment["DATABASE_URL_FILE"]).name == Path(local[module]["DATABASE_URL_FILE"]).name


@pytest.mark.parametrize(("module", "reader"), READERS.items())
def test_an_image_runs_as_the_group_that_its_secrets_are_given_to(module: str, reader: str) -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "keys" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = (ROOT / module / "Dockerfile").read_text()
    user = re.search(r"^USER (\w+)$", text, re.MULTILINE)
    assert user is not None
    group = getattr(generate, f"{reader}_GROUP")
    assert f"groupadd -g {generate.SHARED_GROUP} artstore && groupadd -g {group} {user[1]}" in text
    assert f"useradd -u {group} -g {user[1]} -G artstore" in text


def test_a_backup_reads_every_element_and_may_write_to_none(services: dict[str, dict[str, Any]]) -> None:
    elements = {
        volume.partition(":")[0]
        for service in services.values()
        if "STORAGE_ELEMENT_ID" in service.get("environment", {})
        for volume in service["volumes"]
        if volume.endswith(":/data")
    }
    backup, restore = services["backup"], services["restore"]
    assert {"backups:/backups", "./keys:/keys:ro", *(f"{name}:/elements/{name}:ro" for name in elements)} == set(
        backup["volumes"]
    )
    assert {f"{name}:/elements/{name}" for name in elements} <= set(restore["volumes"])
    assert backup["read_only"] is restore["read_only"] is True
    text = (ROOT / "cli" / "Dockerfile").read_text()
    assert all(f"/elements/{name}" in text for name in elements), "a new volume gets the owner of the image's folder"


def test_only_the_keys_must_be_there_before_a_part_starts(services: dict[str, dict[str, Any]]) -> None:
    """Any other condition would let one broken part keep the others from being created."""
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed == "keys" else "service_started"
            assert how == {"condition": wanted}, f"{name} needs {needed}"
    for name in ("ingester-module", "query-module"):
        assert set(services[name]["depends_on"]) == {"keys", "admin-module"}


def test_a_stop_is_longer_than_what_running_requests_get(services: dict[str, dict[str, Any]]) -> None:
    limit_s = ServiceSettings.model_fields["shutdown_timeout_s"].default
    for name in READERS:
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= 3 * limit_s


def test_every_container_is_confined(services: dict[str, dict[str, Any]]) -> None:
    """No capability but those that its image needs, nothing written outside volumes and memory, and a bound on what it takes."""
    may = {
        "keys": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
        "postgres": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
        "s3": {"DAC_OVERRIDE"},
        "gateway": {"NET_BIND_SERVICE", "DAC_READ_SEARCH"},
        **{watcher: {"DAC_READ_SEARCH"} for watcher in ("prometheus", "alertmanager", "grafana")},
    }
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("cap_add", ())) <= may.get(name, set()), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert {"mem_limit", "pids_limit", "cpus"} <= set(service), name
        assert not any("docker.sock" in volume for volume in service.get("volumes", ())), name


def test_the_pages_of_the_observability_profile_are_published_on_an_address_of_their_own() -> None:
    """They ask for no login, so PUBLISH_ADDRESS, which may open the system to the network, does not apply to them."""
    described = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    pages = {name: one for name, one in described.items() if one.get("profiles") == ["observability"]}
    assert set(pages) == {"prometheus", "alertmanager", "grafana", "jaeger"}
    for name, page in pages.items():
        (port,) = page["ports"]
        assert port.startswith("${OBSERVABILITY_ADDRESS:-127.0.0.1}:"), name


def test_prometheus_scrapes_every_service_of_compose(services: dict[str, dict[str, Any]]) -> None:
    jobs = yaml.safe_load((ROOT / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    found = {(name, job["port"]) for one in jobs for job in one.get("dns_sd_configs", ()) for name in job["names"]}
    assert {name for name, _ in found} == {f"{name}-module" for name in SCALABLE}, "every container of a scaled service"
    fixed = {target for one in jobs for job in one.get("static_configs", ()) for target in job["targets"]}
    addresses = {f"{name}:{port}" for name, port in found} | fixed
    expected = {"admin-module:8000", "ingester-module:8020", "query-module:8030", "gateway:9180"}
    expected |= {
        service["environment"]["ELEMENT_URL"].removeprefix("http://")
        for service in services.values()
        if "STORAGE_ELEMENT_ID" in service.get("environment", {})
    }
    assert addresses == expected


def test_a_signal_reaches_a_module_from_its_first_moment_on(services: dict[str, dict[str, Any]]) -> None:
    """The kernel ignores a signal for process 1 that has not asked for it, which Python does only when it has started."""
    for name, service in services.items():
        if "build" in service and service["restart"] != "no":
            assert service["init"] is True, name


def test_no_log_grows_without_a_bound_or_keeps_its_writer_waiting(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name != "keys":
            options = service["logging"]["options"]
            assert {"max-size", "max-file"} <= set(options), name
            assert options["mode"] == "non-blocking", name


@pytest.mark.parametrize("module", READERS)
def test_an_image_neither_depends_on_the_modes_of_the_checkout_nor_starts_python_to_check_its_health(
    module: str,
) -> None:
    text = (ROOT / module / "Dockerfile").read_text()
    assert text.index("RUN chmod -R u=rwX,go=rX /artstore") > text.rindex("COPY ")
    assert text.index("RUN chmod -R u=rwX,go=rX /artstore") < text.index("\nUSER ")
    check = text[text.index("HEALTHCHECK") : text.index("\nCMD ")]
    assert "python" not in check.lower()


@pytest.mark.parametrize(("status", "passes"), [(200, True), (503, False), (None, False)])
def test_the_health_check_of_an_image_passes_only_for_200(status: int | None, passes: bool) -> None:
    """The very command, against a real socket."""
    text = (ROOT / "query-module" / "Dockerfile").read_text()
    found = re.search(r"CMD (\[\"bash\".*?\])\n", text.replace("\\\n", ""), re.DOTALL)
    assert found
    command = json.loads(found[1])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if status is not None:
            listening.listen()

            def answer() -> None:
                connection, _ = listening.accept()
                with connection:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += connection.recv(1024)
                    assert head == b"GET /health/ready HTTP/1.0\r\n\r\n"
                    connection.sendall(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())

            threading.Thread(target=answer, daemon=True).start()
        port = listening.getsockname()[1]
        done = subprocess.run(command, env={"PATH": os.environ["PATH"], "PORT": str(port)}, timeout=60, check=False)
    assert (done.returncode == 0) is passes
