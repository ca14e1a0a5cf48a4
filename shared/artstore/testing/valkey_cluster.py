"""A Valkey Cluster for tests: masters and replicas from the wheel, on free ports. Slots can be moved, nodes killed and started
again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from artstore.local import valkey
from artstore.testing.services import START_TIMEOUT_S, lasting_port, wait_for_port

SLOTS = 16384
MASTERS = 3
NODE_TIMEOUT_MS = 1000
"""A node that does not answer for this long is replaced by its replica within about two seconds more."""


@dataclass
class ClusterNode:
    folder: Path
    port: int
    bus_port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.start()

    def start(self) -> None:
        """Also again, with the identity and the slots from its folder and without data."""
        options = {
            "port": str(self.port),
            "cluster-port": str(self.bus_port),
            "bind": "127.0.0.1",
            "save": "",
            "dir": str(self.folder),
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-replica-validity-factor": "0",
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": "0",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen([valkey.find_server(), *arguments], stdout=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, *command: Any) -> Any:
        with Redis(port=self.port, decode_responses=True, socket_timeout=5) as client:
            return client.execute_command(*command)

    @property
    def node_id(self) -> str:
        return str(self.run("CLUSTER", "MYID"))

    def knows(self, text: str) -> bool:
        """True if its `CLUSTER INFO` has this line."""
        try:
            with Redis(port=self.port, socket_timeout=1) as client:
                connection = client.connection_pool.get_connection()
                connection.send_command("CLUSTER INFO")
                return text.encode() in connection.read_response()
        except (RedisConnectionError, OSError):
            return False


@dataclass
class ValkeyCluster:
    """The replica of `nodes[i]` is `nodes[MASTERS + i]`."""

    nodes: list[ClusterNode]

    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:MASTERS])

    def master_of(self, key: str) -> ClusterNode:
        """As a majority of the nodes that run sees it."""
        alive = [node for node in self.nodes if node.process.poll() is None]
        slot = int(alive[0].run("CLUSTER", "KEYSLOT", key))
        owners = [owner for node in alive if (owner := _owner(node, slot))]
        return next(node for node in self.nodes if node.port == max(owners, key=owners.count))

    @contextmanager
    def moving(self, slot: int) -> Iterator[tuple[ClusterNode, ClusterNode]]:
        """Within the block the slot is between its master and another one; afterwards the other one has it, with its keys."""
        source = next(node for node in self.nodes if node.port == _owner(self.nodes[0], slot))
        target = next(node for node in self.nodes[:MASTERS] if node is not source)
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
        yield source, target
        while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.run("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes[:MASTERS]):
            node.run("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def start_valkey_cluster(folder: Path, *, replicas: bool = False) -> ValkeyCluster:
    """Three masters, each with a replica if wanted; ready when it returns."""
    count = 2 * MASTERS if replicas else MASTERS
    nodes: list[ClusterNode] = []
    cluster = ValkeyCluster(nodes)
    try:
        nodes.extend(ClusterNode(folder / f"valkey-{each}", lasting_port(), lasting_port()) for each in range(count))
        for number, node in enumerate(nodes):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < MASTERS:
                first, after = (SLOTS * each // MASTERS for each in (number, number + 1))
                node.run("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for node in nodes[1:]:
            nodes[0].run("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        _wait(lambda: all(node.knows(f"cluster_known_nodes:{count}\r") for node in nodes))
        for master, replica in zip(nodes, nodes[MASTERS:], strict=False):
            _wait(lambda master=master, replica=replica: _replicate(master, replica))  # type: ignore[misc]
        _wait(lambda: all(node.knows("cluster_state:ok") for node in nodes))
        _wait(lambda: all("connected" in str(node.run("ROLE")) for node in nodes[MASTERS:]))
    except BaseException:
        cluster.stop()
        raise
    return cluster


@contextmanager
def running_cluster(folder: Path, *, replicas: bool = False) -> Iterator[ValkeyCluster]:
    cluster = start_valkey_cluster(folder, replicas=replicas)
    try:
        yield cluster
    finally:
        cluster.stop()


def _replicate(master: ClusterNode, replica: ClusterNode) -> bool:
    try:
        return bool(replica.run("CLUSTER", "REPLICATE", master.node_id))
    except Exception:  # the master is not known there yet
        return False


def _owner(node: ClusterNode, slot: int) -> int | None:
    """The port of the master, by what this node knows."""
    with Redis(port=node.port, decode_responses=True, socket_timeout=5) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("CLUSTER SLOTS")
        found = [entry for entry in connection.read_response() if entry[0] <= slot <= entry[1]]
    return int(found[0][2][1]) if found else None


def _wait(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not question():
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster did not come up")
        time.sleep(0.05)
