"""The system call bpf(2), as far as capture needs it.

Every function takes and returns file descriptors, which the caller closes; a program, map or link
lives on while a descriptor, a pin or a link holds it.  Failures are OSError with the kernel's
errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from uproxy.capture.elf import MapDefinition
from uproxy.errors import UproxyError

_NUMBERS: Final = {"x86_64": 321, "aarch64": 280}
"""The system call's number, by machine."""

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD = range(6)
_OBJ_PIN, _OBJ_GET, _PROG_ATTACH = 6, 7, 8
_PROG_BY_ID = 13
_OBJ_INFO, _LINK_CREATE, _LINK_UPDATE = 15, 28, 29

_ATTRIBUTES = 144
"""The bytes that we pass as `union bpf_attr`; the kernel demands zeros behind those it knows."""
_NAME = 15
"""How many characters of a program's or map's name the kernel keeps."""
_MAPS = 64
"""How many maps of a loaded program are asked for at most."""
_CGROUP_LINK = 3
"""BPF_LINK_TYPE_CGROUP."""
_LOG = 1 << 20
"""The size in bytes of the buffer for the verifier's log."""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says about a BPF link."""

    id: int
    """The link's number."""
    program_id: int
    """The number of the program that the link attaches."""
    target: int
    """What it is attached to: the cgroup's id, or the network
    namespace's inode; 0: that is gone."""


class VerifierError(OSError):
    """The kernel refused a program; `log` is the verifier's last lines."""

    log: str = ""


_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, layout: str, *values: object) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise UproxyError(f"capture knows no {platform.machine()}: only {', '.join(_NUMBERS)}")
    attributes = ctypes.create_string_buffer(
        struct.pack(f"={layout}", *values).ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES
    )
    done: int = _libc.syscall(number, command, attributes, _ATTRIBUTES)
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _bytes(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def create_map(name: str, wanted: MapDefinition) -> int:
    """Return the descriptor of a new map."""
    return _bpf(
        _MAP_CREATE, "7I16s", wanted.type, wanted.key_size, wanted.value_size, wanted.max_entries,
        wanted.flags, 0, 0, name.encode()[:_NAME],
    )  # fmt: skip


def load_program(name: str, kind: tuple[int, int], code: bytes, license_: str) -> int:
    """Return the descriptor of a loaded program.  `kind`: program type, expected attach type.

    Raises:
        VerifierError: the kernel refuses the program.
        OSError: a privilege is missing (EPERM), or the kernel knows no such program (EINVAL).
    """
    instructions, granted = _bytes(code), _bytes(license_.encode() + b"\0")

    def load(level: int, size: int, log: int) -> int:
        return _bpf(
            _PROG_LOAD, "2I2Q2IQ2I16s2I", kind[0], len(code) // 8, _address(instructions),
            _address(granted), level, size, log, 0, 0, name.encode()[:_NAME], 0, kind[1],
        )  # fmt: skip

    try:
        return load(0, 0, 0)
    except OSError as error:
        first = error
    # again, for the log: asked for at once, a log that is too small would fail a good program
    log = ctypes.create_string_buffer(_LOG)
    with contextlib.suppress(OSError):
        return load(1, _LOG, _address(log))
    if not log.value:
        raise first
    refused = VerifierError(first.errno, first.strerror)
    refused.log = "; ".join(log.value.decode(errors="replace").strip().splitlines()[-3:])
    raise refused


def create_link(program: int, target: int, attach_type: int) -> int:
    """Attach a program to a cgroup or network namespace; return the link's descriptor."""
    return _bpf(_LINK_CREATE, "4I", program, target, attach_type, 0)


def update_link(link: int, program: int) -> None:
    """Exchange a link's program, with no moment in which there is none."""
    _bpf(_LINK_UPDATE, "4I", link, program, 0, 0)


def attach_to_map(program: int, map_: int, attach_type: int) -> None:
    """Make a program see what the sockets in a map send, which are put into it from then on."""
    _bpf(_PROG_ATTACH, "4I", map_, program, attach_type, 0)


def pin(descriptor: int, path: str) -> None:
    """Give a map or link a name in a bpffs, which keeps it alive when its descriptors are
    closed."""
    name = _bytes(os.fsencode(path) + b"\0")
    _bpf(_OBJ_PIN, "QI", _address(name), descriptor)


def get_pinned(path: str) -> int:
    """Return a new descriptor of the map or link that is pinned at a path."""
    name = _bytes(os.fsencode(path) + b"\0")
    return _bpf(_OBJ_GET, "Q", _address(name))


def update(map_: int, key: bytes, value: bytes) -> None:
    """Set the value that a map has for a key."""
    key_, value_ = _bytes(key), _bytes(value)
    _bpf(_MAP_UPDATE, "I4xQQQ", map_, _address(key_), _address(value_), 0)


def lookup(map_: int, key: bytes, size: int) -> bytes | None:
    """Return the value, of `size` bytes, that a map has for a key; None: it has none.

    If the map has a value for each processor, all of them are returned, `size` bytes together.
    """
    key_, value = _bytes(key), ctypes.create_string_buffer(size)
    try:
        _bpf(_MAP_LOOKUP, "I4xQQQ", map_, _address(key_), _address(value), 0)
    except FileNotFoundError:
        return None
    return value.raw


def delete(map_: int, key: bytes) -> None:
    """Remove a key and its value from a map; that it isn't there is no error."""
    key_ = _bytes(key)
    with contextlib.suppress(FileNotFoundError):
        _bpf(_MAP_DELETE, "I4xQ", map_, _address(key_))


def keys(map_: int, size: int) -> Iterator[bytes]:
    """Yield a map's keys, of `size` bytes each.  It mustn't change meanwhile."""
    found = ctypes.create_string_buffer(size)
    before: ctypes.Array[ctypes.c_char] | None = None
    with contextlib.suppress(FileNotFoundError):
        while True:
            at = 0 if before is None else _address(before)
            _bpf(_MAP_NEXT_KEY, "I4xQQ", map_, at, _address(found))
            before = _bytes(found.raw)
            yield found.raw


def _info(descriptor: int, content: bytes, size: int) -> bytes:
    info = ctypes.create_string_buffer(content.ljust(size, b"\0"), size)
    _bpf(_OBJ_INFO, "2IQ", descriptor, size, _address(info))
    return info.raw


def open_program(program_id: int) -> int:
    """Return a new descriptor of a loaded program."""
    return _bpf(_PROG_BY_ID, "3I", program_id, 0, 0)


def program_maps(program_id: int) -> frozenset[int]:
    """Return the numbers of the maps that a loaded program uses."""
    ids = (ctypes.c_uint32 * _MAPS)()
    program = open_program(program_id)
    try:
        # behind 52 bytes: nr_map_ids, map_ids
        info = _info(program, struct.pack("=52xIQ", _MAPS, ctypes.addressof(ids)), 64)
    finally:
        os.close(program)
    [count] = struct.unpack_from("=I", info, 52)
    return frozenset(ids[:count])


def map_id(map_: int) -> int:
    """Return a map's number, which no other map has."""
    return int(struct.unpack_from("=2I", _info(map_, b"", 64))[1])


def value_size(map_: int) -> int:
    """Return how many bytes a map's values have."""
    return int(struct.unpack_from("=4I", _info(map_, b"", 64))[3])


def link_info(link: int) -> LinkInfo:
    """Return what the kernel says about a link to a cgroup or network namespace."""
    info = _info(link, b"", 64)
    kind, identity, program = struct.unpack_from("=3I", info)
    # of a cgroup 64 bits, of a network namespace 32
    [target] = struct.unpack_from("=Q" if kind == _CGROUP_LINK else "=I", info, 16)
    return LinkInfo(identity, program, target)
