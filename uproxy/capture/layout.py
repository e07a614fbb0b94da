"""The maps' keys and values as bytes: `bpf_redirect/capture.h` in Python.

Pure.  tests/test_capture_layout.py compiles the header and compares both.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

ABI: Final = 1
"""CAPTURE_ABI: changes when a map's meaning does, so that older programs' maps aren't reused."""

Network = IPv4Network | IPv6Network

_CONFIG: Final = struct.Struct("=IIIIHHIQQ")
_PREFIX: Final = struct.Struct("=I16s")
_PORT: Final = struct.Struct("=HH")
_KERNEL: Final = struct.Struct("=7I")
_PAIR: Final = struct.Struct("=16s16sHH")
_WORD: Final = struct.Struct("=I")
_COUNTER: Final = struct.Struct("=Q")
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
"""What stands in front of an IPv4 address in an IPv6 one (RFC 4291 §2.5.5.2)."""
_MAPPED_BITS: Final = 96


CONFIG_SIZE: Final = _CONFIG.size
PREFIX_SIZE: Final = _PREFIX.size
PAIR_SIZE: Final = _PAIR.size


class Action(enum.IntEnum):
    """Whether a connection is taken to the proxy: the values of the maps `addresses` and
    `ports`."""

    CAPTURE = 0
    BYPASS = 1


class Flag(enum.IntFlag):
    """The switches that the programs read: bits of `Config.flags`."""

    FAIL_OPEN = 1
    ADDRESSES_INCLUDED = 2
    PORTS_INCLUDED = 4
    INBOUND = 8
    INBOUND_ALL = 16


class Way(enum.IntEnum):
    """Which connections a port rule is for: the first half of a key of the map `ports`."""

    OUTBOUND = 0
    INBOUND = 1


class Listener(enum.IntEnum):
    """The proxy's two listening sockets: the keys of the map `listeners`."""

    OUTBOUND = 0
    INBOUND = 1


class Stat(enum.IntEnum):
    """What the programs count: the keys of the map `stats`."""

    CAPTURED = 0
    BYPASSED = 1
    NO_LISTENER = 2
    FOREIGN_NETNS = 3
    BOUND_DEVICE = 4
    INBOUND = 5
    INBOUND_REFUSED = 6
    LEAKS_STOPPED = 7
    HANDED_OVER = 8
    LEFT_TO_TCP = 9


@dataclass(frozen=True, slots=True)
class Config:
    """The one value of the map `config`."""

    enabled: bool
    mark: int
    flags: Flag
    outbound_port: int
    inbound_port: int
    netns_cookie: int = 0
    """The kernel's number of the captured network namespace; 0: unknown, so that it isn't
    checked."""
    proxy_cgroup: int = 0
    """The cgroup whose processes are never captured; 0: none."""
    abi: int = ABI

    def pack(self) -> bytes:
        """Return the bytes of `struct capture_config`."""
        return _CONFIG.pack(
            self.abi, self.enabled, self.mark, self.flags, self.outbound_port, self.inbound_port,
            0, self.netns_cookie, self.proxy_cgroup,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> Config:
        """Return the configuration of which `pack` made these bytes."""
        abi, enabled, mark, flags, outbound, inbound, _, cookie, cgroup = _CONFIG.unpack(data)
        return cls(bool(enabled), mark, Flag(flags), outbound, inbound, cookie, cgroup, abi)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The one value of the map `kernel`: at how many bytes the kernel has what `carry` reads."""

    enabled: bool
    chosen: int
    receiving: int
    most: int
    layered: int
    read: int
    written: int

    def pack(self) -> bytes:
        """Return it as `struct capture_kernel`."""
        return _KERNEL.pack(
            self.enabled, self.chosen, self.receiving, self.most, self.layered, self.read,
            self.written,
        )  # fmt: skip


def pair_key(local: tuple[str, int], remote: tuple[str, int]) -> bytes:
    """Return a key of `senders` and `receivers`: a connection as one of its sockets sees it."""
    return _PAIR.pack(_packed(local[0]), _packed(remote[0]), local[1], remote[1])


def _packed(address: str) -> bytes:
    packed = ip_address(address).packed
    return packed if len(packed) == 16 else _MAPPED + packed


def prefix_key(network: Network) -> bytes:
    """Return an address prefix as a key of `addresses` and `own`."""
    packed = network.network_address.packed
    if isinstance(network, IPv4Network):
        return _PREFIX.pack(_MAPPED_BITS + network.prefixlen, _MAPPED + packed)
    return _PREFIX.pack(network.prefixlen, packed)


def port_key(way: Way, port: int) -> bytes:
    """Return a key of `ports`."""
    return _PORT.pack(way, port)


def word(value: int) -> bytes:
    """Return a 32-bit key or value."""
    return _WORD.pack(value)


def sum_counters(per_cpu: bytes) -> int:
    """Return the sum of a counter that each processor has its own value of."""
    return sum(value for (value,) in _COUNTER.iter_unpack(per_cpu))
