"""deploy/kubernetes: what it renders to is valid for Kubernetes and agrees with the images, the settings and the services.

No cluster runs here. The manifests are rendered by kubectl, checked against the schemas of Kubernetes, and their
environment is read by the services' own settings classes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from support.system import ROOT, System

from artstore.setting_names import SETTING_NAMES

FOLDER = "deploy/kubernetes"
VERSIONS = ("1.31", "1.37")
"""The oldest and the newest version that docs/operations/kubernetes.md names."""
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
OURS = {"admin": "admin-module", "ingester": "ingester-module", "query": "query-module", "element": "storage-element"}
"""The module by the label `app` of its pods."""
SERVICE_OF = {"admin": "admin", "ingester": "ingester", "query": "query", "element": "se-01", "gateway": "gateway"}
"""The running service of the test's system by the same label."""
READ_SETTINGS = """
import sys
from artstore.config import load_settings
from app.core import config
settings = load_settings(getattr(config, sys.argv[1]))
print(settings.model_dump_json(include={"database_pool_size", "database_max_overflow", "port"}))
print(*type(settings).model_fields)
"""
Manifest = dict[str, Any]

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl for this machine")


class Rendered:
    """The manifests that kubectl makes of a copy of the folder, to which an operator has added the given changes."""

    def __init__(self, folder: Path, *, whole: bool) -> None:
        for name in ("deploy", "gateway", "keys"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.secret", "*.json", "*-key*"))
        shutil.copy(ROOT / "gateway" / "openapi.json", folder / "gateway")
        self.folder = folder / FOLDER
        generate = [sys.executable, str(folder / "keys" / "generate.py"), str(self.folder / "keys")]
        subprocess.run([*generate, *(["--element", "se-04"] if whole else [])], check=True)
        if whole:
            self._add_all()
        done = subprocess.run([str(KUBECTL), "kustomize", str(self.folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.all: list[Manifest] = list(yaml.safe_load_all(done.stdout))

    def _add_all(self) -> None:
        """The optional parts, and one more element by the recipe of docs/operations/kubernetes.md."""
        top, keys = self.folder / "kustomization.yaml", self.folder / "keys" / "kustomization.yaml"
        text = top.read_text().replace("  # - elements/se-03", "  - elements/se-03\n  - elements/se-04")
        top.write_text(text.replace("# components: [tls]", "components: [tls]"))
        for name in ("tls.crt", "tls.key"):
            (self.folder / "tls" / name).write_text("a certificate")
        more = self.folder / "elements" / "se-04"
        shutil.copytree(self.folder / "elements" / "se-02", more)
        overlay = more / "kustomization.yaml"
        overlay.write_text(overlay.read_text().replace("se-02", "se-04"))
        keys.write_text(keys.read_text().replace("se-03.secret", "se-03.secret, se-04.secret"))

    def of(self, *kinds: str) -> list[Manifest]:
        return [one for one in self.all if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest:
        return next(one for one in self.of(kind) if one["metadata"]["name"] == name)

    def workloads(self) -> list[Manifest]:
        return self.of("Deployment", "StatefulSet")

    def elements(self) -> list[str]:
        return sorted(labels_of(one)["element"] for one in self.of("StatefulSet") if "element" in labels_of(one))


def labels_of(workload: Manifest) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def containers(rendered: Rendered) -> Iterator[tuple[Manifest, Manifest, dict[str, str]]]:
    """(pod, container, labels) of every container."""
    for workload in rendered.workloads():
        pod = workload["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield pod, container, labels_of(workload)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("shipped"), whole=False)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("whole"), whole=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_and_has_no_unknown_field(rendered: Rendered, shipped: Rendered, version: str) -> None:
    assert len(rendered.all) > len(shipped.all) > 30
    for manifest in (*rendered.all, *shipped.all):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_found(rendered: Rendered) -> None:
    broken = json.loads(json.dumps(rendered.named("StatefulSet", "query")))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_every_container_is_confined(rendered: Rendered) -> None:
    for pod, container, labels in containers(rendered):
        name, confined = container["name"], container["securityContext"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["capabilities"]["drop"] == ["ALL"]
        assert set(confined["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert "memory" in container["resources"]["limits"], name
        if name != "migrations":
            assert {"startupProbe", "readinessProbe"} <= set(container), name
            assert "livenessProbe" in container or labels["app"] == "postgres"


def test_users_ports_and_folders_are_those_of_the_images(rendered: Rendered) -> None:
    seen = set()
    for pod, container, labels in containers(rendered):
        if not (module := OURS.get(labels["app"])):
            continue
        seen.add(module)
        dockerfile = (ROOT / module / "Dockerfile").read_text()
        user = re.search(r"useradd -u (\d+)", dockerfile)
        assert user
        context = pod["securityContext"]
        assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {int(user[1])}
        assert container["image"].endswith(f"/{module}:1")
        if container["name"] == "migrations":
            continue
        port = container["ports"][0]["containerPort"]
        assert f"EXPOSE {port}\n" in dockerfile
        assert "/data" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert f"-d -o {container['name']} -g {container['name']} -m 0700 /data" in dockerfile
    assert seen == set(OURS.values())


def environment_of(rendered: Rendered, container: Manifest, labels: Mapping[str, str]) -> dict[str, str]:
    """As kubelet makes it: the maps first, then each variable, which may use those before it."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= rendered.named("ConfigMap", source["configMapRef"]["name"])["data"]
    own: dict[str, str] = {}
    for one in container.get("env", ()):
        if "valueFrom" in one:
            label = re.fullmatch(r"metadata\.labels\['(\w+)'\]", one["valueFrom"]["fieldRef"]["fieldPath"])
            assert label
            own[one["name"]] = labels[label[1]]
        else:
            own[one["name"]] = re.sub(r"\$\((\w+)\)", lambda name: own[name[1]], one["value"])
    return found | own


def mount(rendered: Rendered, pod: Manifest, container: Manifest, environment: Mapping[str, str], root: Path) -> None:
    """The secrets and empty folders of a container, below `root`."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mounted in container["volumeMounts"]:
        target = root / mounted["mountPath"].lstrip("/")
        secret = volumes.get(mounted["name"], {}).get("secret")
        if secret is None:
            target.mkdir(parents=True)
            continue
        assert secret["defaultMode"] == 0o440
        data = rendered.named("Secret", secret["secretName"])["data"]
        part = re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], mounted.get("subPathExpr", ""))
        for name, text in ({"": data[part]} if part else data).items():
            path = target / name if name else target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(text))
            path.chmod(0o440)


def test_every_service_starts_with_its_settings_and_secrets(rendered: Rendered, tmp_path: Path) -> None:
    """The names, values and files are read by the very classes that the services start with."""
    connections = 0
    for number, (pod, container, labels) in enumerate(containers(rendered)):
        if not (module := OURS.get(labels["app"])):
            continue
        root = tmp_path / str(number)
        environment = environment_of(rendered, container, labels)
        mount(rendered, pod, container, environment, root)
        mounted = tuple(one["mountPath"] for one in container["volumeMounts"])
        moved = {name: f"{root}{value}" if value.startswith(mounted) else value for name, value in environment.items()}
        image = re.findall(r"(HOST|PORT)=(\S+)", (ROOT / module / "Dockerfile").read_text())
        cls = "MigrationSettings" if container["name"] == "migrations" else "Settings"
        done = subprocess.run(
            [sys.executable, "-c", READ_SETTINGS, cls],
            cwd=ROOT / module,
            env={**dict(image), **moved, "PYTHONPATH": str(ROOT / "shared")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{container['name']}: {done.stderr}"
        values, fields = done.stdout.splitlines()
        names = {name.removesuffix("_FILE") if name not in SETTING_NAMES else name for name in environment}
        assert names <= SETTING_NAMES
        own = {one["name"] for one in container["env"]}
        assert {name.lower() for name in own} <= {f"{name}{end}" for name in fields.split() for end in ("", "_file")}
        if cls == "Settings":
            read = json.loads(values)
            assert read["port"] == container["ports"][0]["containerPort"]
            replicas = {"element": 1}.get(labels["app"], 2)
            connections += replicas * (read["database_pool_size"] + read["database_max_overflow"])
    server = rendered.named("StatefulSet", "postgres")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert connections <= int(server[-1].removeprefix("max_connections="))


def test_probes_ask_for_what_the_services_answer(rendered: Rendered, system: System) -> None:
    asked = set()
    for _, container, labels in containers(rendered):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if get := container.get(kind, {}).get("httpGet"):
                assert get["port"] in {port["name"] for port in container["ports"]}
                asked.add((labels["app"], kind, get["path"]))
    assert {app for app, *_ in asked} == set(SERVICE_OF)
    for app, kind, path in asked:
        assert httpx.get(f"{system.url(SERVICE_OF[app])}{path}", timeout=60).status_code == 200, (app, path)
        assert path == ("/health/ready" if kind == "readinessProbe" else "/health/live")
    probe = rendered.named("Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    script = probe["exec"]["command"][-1]
    assert script == "for path in ready live; do wget -qO /dev/null http://127.0.0.1:8080/health/$path; done"
    for path in ("ready", "live"):
        assert httpx.get(f"{system.url('gateway')}/health/{path}", timeout=60).status_code == 200


def test_addresses_lead_to_services_of_the_namespace(rendered: Rendered) -> None:
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in rendered.of("Service")}
    asked = set(re.findall(r"import ready \S+ (\S+) (\d+)", (ROOT / "gateway" / "Caddyfile").read_text()))
    for _, container, labels in containers(rendered):
        environment = environment_of(rendered, container, labels)
        for name in {"ADMIN_URL", "ELEMENT_URL"} & set(environment):
            url = urlsplit(environment[name])
            asked.add((str(url.hostname), str(url.port)))
    for secret in rendered.of("Secret"):
        for name, text in secret["data"].items():
            if name.startswith(("database-url", "redis-url")):
                url = urlsplit(base64.b64decode(text).decode())
                asked.add((str(url.hostname), str(url.port)))
    assert {name for name, _ in asked} == set(ports) - {"gateway"}
    assert all(ports[name] == int(port) for name, port in asked)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """`matchLabels` and `matchExpressions` (with the one operator in use)."""
    expressions = selector.get("matchExpressions", ())
    assert all(one["operator"] == "In" for one in expressions)
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def test_each_selector_selects_the_pods_it_is_for(rendered: Rendered) -> None:
    pods = {one["metadata"]["name"]: labels_of(one) for one in rendered.workloads()}
    for service in rendered.of("Service"):
        selected = [
            name for name, labels in pods.items() if selects({"matchLabels": service["spec"]["selector"]}, labels)
        ]
        assert selected == [service["metadata"]["name"].removesuffix("-module")]
    for workload in rendered.workloads():
        assert [name for name, labels in pods.items() if selects(workload["spec"]["selector"], labels)] == [
            workload["metadata"]["name"]
        ]
        for spread in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            app = labels_of(workload)["app"]
            spread_over = {labels["app"] for labels in pods.values() if selects(spread["labelSelector"], labels)}
            together = [name for name, labels in pods.items() if selects(spread["labelSelector"], labels)]
            assert spread_over == {app}
            assert app != "element" or len(together) == len(rendered.elements())
    budgets = {one["metadata"]["name"]: one["spec"] for one in rendered.of("PodDisruptionBudget")}
    assert set(budgets) == {"admin", "ingester", "query", "gateway", "elements"}
    for name, budget in budgets.items():
        assert any(selects(budget["selector"], labels) for labels in pods.values()), name
        assert budget["maxUnavailable"] == 1


def test_a_service_that_is_not_ready_can_still_be_reached(rendered: Rendered) -> None:
    """Without PostgreSQL neither ingester nor elements are ready, and files can be read and deleted all the same."""
    for service in rendered.of("Service"):
        if service["metadata"]["name"] not in ("gateway", "postgres", "redis"):
            assert service["spec"]["clusterIP"] == "None"
            assert service["spec"]["publishNotReadyAddresses"] is True


def test_policies_let_through_what_the_services_need_and_nothing_else(rendered: Rendered) -> None:
    policies = [one["spec"] for one in rendered.of("NetworkPolicy") if "Ingress" in one["spec"]["policyTypes"]]
    pods = {labels["app"]: labels for labels in map(labels_of, rendered.workloads())}
    assert any(one["podSelector"] == {} and "ingress" not in one for one in policies)

    def allowed(source: Mapping[str, str], target: Mapping[str, str]) -> bool:
        rules = [rule for one in policies if selects(one["podSelector"], target) for rule in one.get("ingress", ())]
        peers = [peer for rule in rules for peer in rule.get("from", [{"podSelector": {}}])]
        return any(selects(peer["podSelector"], source) for peer in peers if "podSelector" in peer)

    open_ways = {(a, b) for (a, of_a), (b, of_b) in product(pods.items(), repeat=2) if a != b and allowed(of_a, of_b)}
    services = {"admin", "ingester", "query", "element"}
    assert open_ways == {
        *(("gateway", service) for service in ("admin", "ingester", "query")),
        *((service, "admin") for service in ("ingester", "query", "element")),
        *((service, "element") for service in ("admin", "ingester", "query")),
        *product(services, ("postgres", "redis")),
        *((app, "gateway") for app in pods if app != "gateway"),  # open to all
    }


def test_an_element_is_one_pod_on_its_own_volume(rendered: Rendered, shipped: Rendered) -> None:
    assert shipped.elements() == ["se-01", "se-02"]
    assert rendered.elements() == ["se-01", "se-02", "se-03", "se-04"]
    for one in rendered.of("StatefulSet"):
        if "element" in labels_of(one):
            assert one["spec"]["replicas"] == 1
            assert one["spec"]["serviceName"] == one["metadata"]["name"]


def test_what_postgresql_has_not_received_outlives_the_pod(rendered: Rendered) -> None:
    """Audit events wait in /data; in an emptyDir they would be lost with a pod while PostgreSQL is away."""
    seen = set()
    for one in rendered.workloads():
        app, spec = labels_of(one)["app"], one["spec"]
        if app not in OURS:
            continue
        seen.add(app)
        assert one["kind"] == "StatefulSet"
        assert spec["serviceName"] in {service["metadata"]["name"] for service in rendered.of("Service")}
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"]
        pod = spec["template"]["spec"]
        assert not [volume for volume in pod["volumes"] if "emptyDir" in volume]
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert environment_of(rendered, pod["containers"][0], labels_of(one))["AUDIT_FOLDER"] == "/data/audit"
        if app != "element":
            # With PostgreSQL away no pod is ready: each must start without waiting for the one before it.
            assert spec["podManagementPolicy"] == "Parallel"
    assert seen == set(OURS)


def test_the_gateway_has_its_files_and_speaks_tls_with_the_component(rendered: Rendered, shipped: Rendered) -> None:
    for one, tls in ((shipped, False), (rendered, True)):
        pod = one.named("Deployment", "gateway")["spec"]["template"]["spec"]
        files = next(volume for volume in pod["volumes"] if volume["name"] == "files")
        assert set(one.named("ConfigMap", files["configMap"]["name"])["data"]) == {"Caddyfile", "openapi.json"}
        environment = environment_of(one, pod["containers"][0], {})
        known = set(re.findall(r"\{\$(\w+)[:}]", (ROOT / "gateway" / "Caddyfile").read_text()))
        assert set(environment) <= known
        assert (environment.get("GATEWAY_TLS") == "files") is tls
        ports = {port["targetPort"] for port in one.named("Service", "gateway")["spec"]["ports"]}
        named = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        assert ports == named.keys() - {"metrics"}
        assert f"http://:{named['metrics']} {{" in (ROOT / "gateway" / "Caddyfile").read_text()
        assert ("https" in ports) is tls


def test_git_ignores_every_secret() -> None:
    made = ["database-url", "accounts.json", "key-encryption-key", "se-01.secret", "redis-password"]
    paths = [*(f"{FOLDER}/keys/{name}" for name in made), f"{FOLDER}/tls/tls.key", f"{FOLDER}/tls/tls.crt"]
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone")
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True).stdout
    assert ignored.splitlines() == paths
