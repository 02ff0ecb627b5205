"""Which hosts are this machine's own loopback: said in one place, for peers and for listeners."""

import contextlib
import socket

# RFC 4291, 2.5.5.2: an IPv4 address in an IPv6 one.
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by name (RFC 6761: localhost and all below it) or by number:
    127.0.0.0/8 however it is written, ::1, and ::ffff:127.0.0.0/104. Looks no name up."""
    # Not ipaddress, whose import takes 0.25 MB.
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with contextlib.suppress(OSError):
        address = socket.inet_pton(socket.AF_INET6, name.partition("%")[0])
        mapped = address.removeprefix(_IPV4_MAPPED)
        return address == bytes(15) + b"\x01" or (len(mapped) == 4 and mapped[0] == 127)
    with contextlib.suppress(OSError):
        # Also 127.1 and 0x7f.1, as getaddrinfo(3) reads them.
        return socket.inet_aton(name)[0] == 127
    return False
