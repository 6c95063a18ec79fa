"""The address of a caller, and whether it is allowed. Pure functions.

The header `X-Forwarded-For` is read only from a trusted proxy.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# 192.0.2.1:4711, [2001:db8::1]:4711 and [2001:db8::1], as some proxies write.
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")
_MAPPED_BITS = 96


def parse_networks(value: object) -> object:
    """Return the networks of a setting: separated by spaces, commas or new lines.

    A single address is a network of one. Raises ValueError for an invalid or an empty list.
    """
    if value is None or isinstance(value, tuple):
        return value
    words = re.findall(r"[^\s,]+", str(value))
    if not words:
        raise ValueError("is set but empty, so no address is allowed: remove it to allow any")
    return tuple(_parse_network(word) for word in words)


def client_address(
    peer: str | None, forwarded: str | None, trusted: Sequence[Network]
) -> Address | None:
    """Return the address of the caller, or None if it is unknown.

    peer: the address at the other end of the connection (`REMOTE_ADDR`).
    forwarded: the header `X-Forwarded-For`. It is read only if the peer is a trusted proxy, from
    the right: the first address that is not a trusted proxy is the caller. With an invalid
    address before that one, the caller is unknown.
    """
    chain = [*([] if forwarded is None else forwarded.split(",")), peer or ""]
    for part in reversed(chain):
        caller = parse_address(part)
        if caller is None or not is_within(caller, trusted):
            break
    return caller


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether an address is in one of the networks."""
    return any(address.version == net.version and address in net for net in networks)


def parse_address(text: str) -> Address | None:
    """Return the address in `text`, with or without a port, or None.

    An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is the IPv4 address. The
    zone of an IPv6 address (`fe80::1%eth0`), which may be any text, is left out.
    """
    text = text.strip(" \t")
    if match := _WITH_PORT.fullmatch(text):
        if match["port"] and not 0 < int(match["port"]) < 2**16:
            return None
        text = match["v6"] or match["v4"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _parse_network(word: str) -> Network:
    try:
        network = ip_network(word)
    except ValueError as error:
        raise ValueError(f"{word!r} is neither an address nor a network ({error})") from None
    mapped = isinstance(network, IPv6Network) and network.network_address.ipv4_mapped
    if mapped and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network
