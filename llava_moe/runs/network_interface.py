"""The network interfaces of this machine, by their addresses."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

_SIOCGIFADDR = 0x8915
_FILE_OF_IPV6 = "/proc/net/if_inet6"


def is_own_address(host: str) -> bool:
    """Whether a name or an address leads to this machine; what cannot be looked up does not."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind(address)
        except OSError:
            continue
        return True
    return False


def interface_of(host: str) -> str | None:
    """The name of the interface that has the address of ``host`` (a name or an address); None where none has."""
    try:
        wanted = {ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in socket.getaddrinfo(host, 0)}
    except (OSError, ValueError):
        return None
    wanted = {getattr(one, "ipv4_mapped", None) or one for one in wanted}
    return next((name for _, name in socket.if_nameindex() if wanted & _addresses_of(name)), None)


def _addresses_of(name: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            told = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            found.add(ipaddress.IPv4Address(told[20:24]))
        except OSError:
            pass  # one without such an address
    try:
        with open(_FILE_OF_IPV6, encoding="ascii") as listed:
            found |= {ipaddress.IPv6Address(int(line.split()[0], 16)) for line in listed if line.split()[-1] == name}
    except OSError:
        pass  # not every system has them
    return found
