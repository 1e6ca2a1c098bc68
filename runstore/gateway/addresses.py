"""Whom connections and requests are counted for, by the address that they come from."""

from ipaddress import IPv6Address, IPv6Network
from typing import Final

_CHOSEN_BITS: Final = 64
"""The part of an IPv6 address that whoever has a network can choose at will."""


def network_of(address: str) -> str:
    """Return what an address is counted by: itself, or the network of one of IPv6."""
    if ":" not in address:
        return address
    parsed = IPv6Address(address)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_link_local:
        return address
    return str(IPv6Network((int(parsed) >> _CHOSEN_BITS << _CHOSEN_BITS, 128 - _CHOSEN_BITS)))
