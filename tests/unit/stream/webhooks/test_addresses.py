from __future__ import annotations

import ipaddress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.webhooks.addresses import refusal


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "93.184.215.14", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
        "11.0.0.0", "2606:4700:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808",
    ],
)  # fmt: skip
def test_public_addresses_are_allowed(address: str) -> None:
    assert refusal(address, allow_private=False) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "::1",
        "fc00::1", "fd12:3456::1", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1",
    ],
)  # fmt: skip
def test_private_addresses_only_where_they_are_allowed(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "0.1.2.3",
        "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "198.51.100.1",
        "203.0.113.1", "::", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "fe80::1", "fe80::1%eth0",
        "fd00:ec2::254", "fd20:ce::254", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "fec0::1",
        "5f00::1", "64:ff9b::169.254.169.254", "64:ff9b:1::10.0.0.1", "100::1",
    ],
)  # fmt: skip
def test_addresses_that_are_never_a_webhook_s(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.ip_addresses())
def test_nothing_is_allowed_that_python_calls_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if refusal(str(address), allow_private=False) is None:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else address
        assert not inner.is_private
        assert not inner.is_multicast
        assert not inner.is_link_local


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
