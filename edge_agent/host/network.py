"""system.network.*, and the signal of Wi-Fi."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

import psutil

from edge_agent.host.machine import Machine, psutil_at, read, read_if_there, text
from edge_agent.host.sockdiag import tcp_states
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

IO = Metric("system.network.io", "By", Kind.COUNTER)
ERRORS = Metric("system.network.errors", "{error}", Kind.COUNTER)
DROPPED = Metric("system.network.packet.dropped", "{packet}", Kind.COUNTER)
PACKETS = Metric("system.network.packet.count", "{packet}", Kind.COUNTER)
CONNECTIONS = Metric("system.network.connection.count", "{connection}", Kind.UP_DOWN_COUNTER)
# The conventions have no name for it yet. UCUM has no decibel over a milliwatt; dBm is what
# everybody writes.
SIGNAL = Metric("hw.network.signal_strength", "dBm", Kind.GAUGE, Number.DOUBLE)

# include/net/tcp_states.h. 12 (NEW_SYN_RECV) shows as 3.
_TCP_STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_received",
    4: "fin_wait_1",
    5: "fin_wait_2",
    6: "time_wait",
    7: "closed",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
}


def _wanted(name: str, exclude: tuple[str, ...]) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in exclude)


class Network:
    """`received_bytes` and `transmitted_bytes` since boot: all interfaces but loopback."""

    name = "network"
    metrics = (IO, ERRORS, DROPPED, PACKETS, SIGNAL)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.received_bytes: int | None = None
        self.transmitted_bytes: int | None = None

    def sample(self) -> Iterator[Reading]:
        """Raises OSError without /proc/net/dev."""
        self.received_bytes = self.transmitted_bytes = None
        with psutil_at(self._machine.of_init("net/dev").removesuffix("/net/dev")):
            # Counters that step back are ours to deal with, see counters.py.
            counters = psutil.net_io_counters(pernic=True, nowrap=False)
        outside = [nic for name, nic in counters.items() if name != "lo"]
        self.received_bytes = sum(nic.bytes_recv for nic in outside)
        self.transmitted_bytes = sum(nic.bytes_sent for nic in outside)
        for raw_name, nic in counters.items():
            name = text(os.fsencode(raw_name))
            if not _wanted(name, self._machine.exclude_interfaces):
                continue
            interface = ("network.interface.name", name)
            receive, transmit = (
                ("network.io.direction", "receive"),
                ("network.io.direction", "transmit"),
            )
            yield Reading(IO, (interface, receive), nic.bytes_recv)
            yield Reading(IO, (interface, transmit), nic.bytes_sent)
            yield Reading(ERRORS, (interface, receive), nic.errin)
            yield Reading(ERRORS, (interface, transmit), nic.errout)
            yield Reading(DROPPED, (interface, receive), nic.dropin)
            yield Reading(DROPPED, (interface, transmit), nic.dropout)
            # The one that the conventions give system.device instead of the interface's name.
            device = ("system.device", name)
            yield Reading(PACKETS, (device, receive), nic.packets_recv)
            yield Reading(PACKETS, (device, transmit), nic.packets_sent)
        yield from self._signals()

    def _signals(self) -> Iterator[Reading]:
        """proc_net_wireless: two lines of header, then `wlan0: 0000 70. -40. -256 ...`.

        The third number is the signal level: in dBm, or dBm + 256 from drivers that put it in an
        unsigned byte. -256 is "not measured"; a scale of 0 to 100 is no level.
        """
        path = self._machine.of_init("net/wireless")
        for line in (read_if_there(path) or b"").splitlines()[2:]:
            raw_name, _, rest = line.rpartition(b":")
            fields = rest.split()
            name = text(raw_name.strip())
            if len(fields) < 3 or not _wanted(name, self._machine.exclude_interfaces):
                continue
            level = float(fields[2].rstrip(b"."))
            if 128 <= level < 256:
                level -= 256
            if -128 <= level < 0:
                attributes = (("hw.id", name), ("hw.name", name), ("network.interface.name", name))
                yield Reading(SIGNAL, attributes, level)


class Connections:
    """TCP sockets by state, all addresses of both families together.

    psutil would look into every file descriptor of every process for it.
    """

    name = "connections"
    metrics = (CONNECTIONS,)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ask_kernel = _is_our_namespace(machine)

    def sample(self) -> Iterator[Reading]:
        """Nothing where the machine has no TCP; raises OSError or ValueError on damage."""
        counts = self._counts()
        for state, name in _TCP_STATES.items() if counts is not None else ():
            attributes = (("network.transport", "tcp"), ("network.connection.state", name))
            yield Reading(CONNECTIONS, attributes, (counts or {}).get(state, 0))

    def _counts(self) -> dict[int, int] | None:
        if self._ask_kernel:
            try:
                return tcp_states()
            except OSError:
                # No inet_diag in this kernel, or no netlink in this sandbox: it stays so.
                self._ask_kernel = False
        return _tables(self._machine)


def _is_our_namespace(machine: Machine) -> bool:
    """Whether the network we would report is the one that the kernel tells us about.

    A file of /proc/net has one inode number in each network namespace, and no size; a recorded
    one has a size.
    """
    try:
        ours = os.stat("/proc/self/net/tcp")
        theirs = os.stat(machine.of_init("net/tcp"))
    except OSError:
        return False
    return theirs.st_size == 0 and theirs.st_ino == ours.st_ino


def _tables(machine: Machine) -> dict[int, int] | None:
    """proc_net_tcp: a header, then a line a socket whose fourth word is the state in hex."""
    counts: dict[int, int] | None = None
    for table in ("net/tcp", "net/tcp6"):
        try:
            data = read(machine.of_init(table))
        except FileNotFoundError:
            # A kernel without the family, or a container without the file.
            continue
        counts = counts or {}
        for line in data.splitlines()[1:]:
            state = int(line.split(None, 4)[3], 16)
            counts[state] = counts.get(state, 0) + 1
    return counts
