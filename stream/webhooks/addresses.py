"""Addresses that a webhook may be sent to: the public ones, and private ones where an endpoint allows them. Pure.

An endpoint's name may resolve to an address inside the own network: by a mistake, or because whoever may choose the
URL wants to reach what lies there (server-side request forgery). The list is IANA's of special-purpose addresses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

# Inside a network of one's own: refused unless the endpoint says `allow_private: true`.
_PRIVATE: Final[dict[IPv4Network | IPv6Network, str]] = {
    IPv4Network("127.0.0.0/8"): "this machine",
    IPv4Network("10.0.0.0/8"): "private",
    IPv4Network("172.16.0.0/12"): "private",
    IPv4Network("192.168.0.0/16"): "private",
    IPv4Network("100.64.0.0/10"): "shared by a provider's customers",
    IPv6Network("::1/128"): "this machine",
    IPv6Network("fc00::/7"): "private",
}
# Never a webhook's: refused whatever the endpoint says. The metadata services of clouds answer here, with credentials.
_NEVER: Final[dict[IPv4Network | IPv6Network, str]] = {
    IPv4Network("100.100.100.200/32"): "a cloud's metadata",
    IPv4Network("168.63.129.16/32"): "a cloud's own services",
    IPv4Network("169.254.0.0/16"): "link-local, where clouds serve metadata",
    IPv4Network("0.0.0.0/8"): "no host",
    IPv4Network("192.0.0.0/24"): "for protocols",
    IPv4Network("192.0.2.0/24"): "for documentation",
    IPv4Network("192.88.99.0/24"): "for relays",
    IPv4Network("198.18.0.0/15"): "for benchmarks",
    IPv4Network("198.51.100.0/24"): "for documentation",
    IPv4Network("203.0.113.0/24"): "for documentation",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
    IPv6Network("fd00:ec2::/32"): "a cloud's metadata",
    IPv6Network("fd20:ce::/64"): "a cloud's metadata",
    IPv6Network("fe80::/10"): "link-local",
    IPv6Network("::ffff:0:0/96"): "an IPv4 address in disguise",
    IPv6Network("2001::/23"): "for protocols and tunnels",
    IPv6Network("2001:db8::/32"): "for documentation",
    IPv6Network("2002::/16"): "a tunnel to an IPv4 address",
    IPv6Network("3fff::/20"): "for documentation",
    IPv6Network("ff00::/8"): "multicast",
}
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # an IPv4 address, as a network of IPv6 alone sees it (RFC 6052)
_PUBLIC_V6: Final = IPv6Network("2000::/3")  # all that is given out so far


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Return why a webhook may not be sent to an IP address; None: it may.

    >>> refusal("93.184.215.14", allow_private=False) is None
    True
    >>> refusal("10.1.2.3", allow_private=False), refusal("10.1.2.3", allow_private=True)
    ('private', None)
    >>> refusal("169.254.169.254", allow_private=True)
    'link-local, where clouds serve metadata'
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        ip = IPv6Address(int(ip))  # without its zone
        if ip in _TRANSLATED:
            ip = IPv4Address(int(ip) & 0xFFFF_FFFF)
    for networks, refused in ((_NEVER, True), (_PRIVATE, not allow_private)):
        for network, what in networks.items():
            if ip.version == network.version and ip in network:
                if refused:
                    return what
                return None
    if isinstance(ip, IPv6Address) and ip not in _PUBLIC_V6:
        return "given out to nobody"
    return None
