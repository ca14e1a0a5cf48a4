from __future__ import annotations

import socket

import pytest

from artstore.peers.addresses import GuardedResolver, find_fault, may_call


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8010", "http://localhost:8010/", "https://[::1]:8010", "http://10.0.0.7:8010", "http://192.168.1.2",
        "http://[fd12:3456::1]:8010", "http://storage-element:8010", "https://se-01.store.example.org", "http://8.8.8.8",
        "http://100.64.0.1:8010",
    ],
)  # fmt: skip
def test_places_where_elements_live_may_be_called(url: str) -> None:
    assert find_fault(url) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", "240.0.0.1", "100.100.100.200",
        "fe80::1", "fe80::1%eth0", "ff02::1", "::", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "fd00:ec2::254",
        "2001:0:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_addresses_that_no_element_has_may_not(address: str) -> None:
    assert not may_call(address)


@pytest.mark.parametrize(
    "host", ["2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518", "1.2.3.0x4", "127.1"]
)
def test_odd_spellings_of_addresses_are_no_names(host: str) -> None:
    assert find_fault(f"http://{host}") is not None


async def test_a_name_is_looked_at_again_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name was harmless when it was registered."""
    resolver = GuardedResolver()
    assert [one["host"] for one in await resolver.resolve("localhost", 80, socket.AF_INET)] == ["127.0.0.1"]
    with pytest.raises(OSError, match="is not allowed"):
        await resolver.resolve("169.254.169.254", 80, socket.AF_INET)
    await resolver.close()
