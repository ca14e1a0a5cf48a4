"""The proxy that the fault tests stand between all parts: each fault does what it says, both ways, and ends when healed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from artstore.testing.network import Network, Proxy, Way
from artstore.testing.services import free_port

PATIENCE_S = 120
SILENCE_S = 0.3


class Echo:
    """Sends back what it gets. Notes the sizes of the pieces in which it came."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.pieces: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(1 << 16):
                    self.pieces.append(len(piece))
                    connection.sendall(piece)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listening.close()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as opened:
        yield opened


def connected(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        assert piece, "closed early"
        got += piece
    return got


def answered(proxy: Proxy) -> bytes:
    with connected(proxy) as connection:
        connection.sendall(b"x")
        return exactly(connection, 1)


def silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE_S)
    return False


def test_bytes_pass_both_ways_and_so_does_the_end(network: Network, echo: Echo) -> None:
    body = bytes(range(256)) * 8192
    with connected(network.proxy(("127.0.0.1", echo.port))) as connection:
        threading.Thread(target=connection.sendall, args=(body,)).start()
        assert exactly(connection, len(body)) == body
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def fault_one_way(proxy: Proxy, way: str, fault: Way) -> None:
    proxy.fault(up=fault if way == "up" else Way(), down=fault if way == "down" else Way())


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_delay_holds_up_each_message_and_ends_at_once(network: Network, echo: Echo, way: str) -> None:
    proxy = network.proxy(("127.0.0.1", echo.port))
    with connected(proxy) as connection:
        fault_one_way(proxy, way, Way(delay_s=0.4))
        since_s = time.monotonic()
        connection.sendall(b"slow")
        assert exactly(connection, 4) == b"slow"
        assert time.monotonic() - since_s >= 0.4
        proxy.heal()
        connection.sendall(b"fast")
        assert exactly(connection, 4) == b"fast"


def test_slices_arrive_one_by_one_and_whole(network: Network, echo: Echo) -> None:
    proxy = network.proxy(("127.0.0.1", echo.port))
    proxy.fault(up=Way(slice_bytes=7))
    with connected(proxy) as connection:
        connection.sendall(b"x" * 700)
        assert exactly(connection, 700) == b"x" * 700
    assert len(echo.pieces) > 10


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_black_hole_is_silent_and_loses_nothing_once_it_ends(network: Network, echo: Echo, way: str) -> None:
    proxy = network.proxy(("127.0.0.1", echo.port))
    with connected(proxy) as connection:
        connection.sendall(b"before")
        assert exactly(connection, 6) == b"before"
        fault_one_way(proxy, way, Way(blackhole=True))
        connection.sendall(b"within")
        assert silent(connection)
        assert (sum(echo.pieces) == 12) == (way == "down")
        proxy.heal()
        assert exactly(connection, 6) == b"within"


def test_a_reset_breaks_what_is_open_and_lets_the_next_one_pass(network: Network, echo: Echo) -> None:
    proxy = network.proxy(("127.0.0.1", echo.port))
    with connected(proxy) as connection:
        connection.sendall(b"x")
        exactly(connection, 1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connected(proxy) as connection:
        connection.sendall(b"y")
        assert exactly(connection, 1) == b"y"


def test_a_refusing_edge_resets_everybody_until_it_is_healed(network: Network, echo: Echo) -> None:
    proxy = network.proxy(("127.0.0.1", echo.port))
    proxy.fault(refuse=True)
    with pytest.raises(ConnectionError):
        answered(proxy)
    proxy.heal()
    assert answered(proxy) == b"x"


def test_a_target_that_is_not_there_is_a_reset(network: Network) -> None:
    proxy = network.proxy(("127.0.0.1", free_port()))
    with pytest.raises(ConnectionError):
        answered(proxy)


def test_of_several_targets_those_that_are_there_are_used(network: Network, echo: Echo) -> None:
    proxy = network.proxy(("127.0.0.1", free_port()), ("127.0.0.1", echo.port))
    for _ in range(8):
        assert answered(proxy) == b"x"
    assert proxy.connections == 8
