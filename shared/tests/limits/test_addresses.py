from __future__ import annotations

import pytest

from artstore.limits.addresses import UNKNOWN, as_caller, find_client, parse_networks

PROXIES = parse_networks(["10.0.0.0/8", "192.0.2.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # a stranger may say what he likes
        ("10.1.1.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.1.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # what came before was the stranger's word
        ("10.1.1.1", ["198.51.100.1, 192.0.2.1", "10.2.2.2"], "198.51.100.1"),
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", ["rubbish"], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.1, rubbish, 10.2.2.2"], "10.2.2.2"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.1.1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("10.1.1.1", ["2001:db8:1:2::9"], "2001:db8:1:2::/64"),
        ("::ffff:10.1.1.1", ["198.51.100.1"], "198.51.100.1"),
        ("::1", [], "::/64"),
        (None, ["198.51.100.1"], UNKNOWN),
    ],
)
def test_only_what_trusted_proxies_wrote_is_believed(peer: str | None, forwarded: list[str], address: str) -> None:
    assert as_caller(find_client(peer, forwarded, PROXIES)) == address


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert as_caller(find_client("127.0.0.1", ["198.51.100.1"], ())) == "127.0.0.1"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        parse_networks(["10.0.0.0/99"])
