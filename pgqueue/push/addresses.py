"""Which addresses a request may go to: public ones, and of the others those that were allowed.

The lists follow IANA's registries of special-purpose addresses (RFC 6890). They stand here, since what `ipaddress`
calls global differs between versions of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

from pgqueue.errors import ConfigurationError

Address: TypeAlias = IPv4Address | IPv6Address

NOT_PUBLIC = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 itself reaches the local host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; also where some clouds keep services of their own
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: 169.254.169.254 tells a cloud's machine its credentials
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# All else of IPv6 is loopback, link-local, site-local, unique local, multicast, or not assigned.
PUBLIC_6 = IPv6Network("2000::/3")
NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols' own, Teredo among them, which holds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",
    )
)
NAT64 = IPv6Network("64:ff9b::/96")
# Nobody's host, whoever asks for it.
NEVER = (IPv4Network("0.0.0.0/8"), IPv4Network("224.0.0.0/3"), IPv6Network("::/128"), IPv6Network("ff00::/8"))


@dataclass(frozen=True, slots=True)
class Allowed:
    """What is allowed beside public addresses: every unicast address (`private`), or some networks."""

    private: bool = False
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, allow_private: bool | Sequence[str]) -> Allowed:
        """True, False, or networks such as "10.1.0.0/16". Raises ConfigurationError."""
        given: object = allow_private
        if isinstance(given, bool):
            return cls(private=given)
        try:
            if isinstance(allow_private, str | bool):
                raise ValueError(f"{given!r} is no list")
            return cls(networks=tuple(ip_network(network) for network in allow_private))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"allow_private={given!r}: give True, or a list of networks such as ['10.1.0.0/16']: {error}"
            ) from None

    def permits(self, address: Address) -> bool:
        """Whether a request may go there."""
        inside = embedded(address)
        if is_public(inside):
            return True
        if self.private:
            return not any(inside in network for network in NEVER)
        return any(one in network for network in self.networks for one in (address, inside))


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address leads to: mapped ones, and those that a NAT64 translates."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could have it; an IPv4 address inside an IPv6 one is not looked at."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC)
    return address in PUBLIC_6 and not any(address in network for network in NOT_PUBLIC_6)


def literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
