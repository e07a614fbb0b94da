"""connect(2) as io_uring does it (IORING_OP_CONNECT), which Python has no module for.

The numbers and layouts are those of <linux/io_uring.h>.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct

_SETUP, _ENTER = 425, 426
"""The system calls, which are called the same on every architecture."""
_PARAMS = struct.Struct("=10I 8IQ 8IQ")
_SQES = 0x10000000
"""Where mmap(2) finds the submissions, in the ring's file."""
_SINGLE_MMAP = 1
_GETEVENTS = 1
_OP_CONNECT = 16
_ASYNC = 16
"""A flag of the submission: a kernel thread takes it up, not the caller."""
_SQE = struct.Struct("=BBHiQQIIQ24x")
_CQE = struct.Struct("=QiI")

_libc = ctypes.CDLL(None, use_errno=True)


def connect(client: socket.socket, to: tuple[str, int], *, is_async: bool = False) -> None:
    """Connect a socket without O_NONBLOCK; raises OSError as connect(2) would."""
    was = client.gettimeout()
    client.settimeout(None)
    result = _result_of_connect(client.fileno(), _name(client.family, *to), is_async=is_async)
    client.settimeout(was)
    if result < 0:
        raise OSError(-result, f"IORING_OP_CONNECT: {errno.errorcode[-result]}")


def _name(family: int, address: str, port: int) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    packed = socket.inet_pton(family, address)
    rest = bytes(8) if family == socket.AF_INET else bytes(4)
    flow = b"" if family == socket.AF_INET else bytes(4)
    return struct.pack("=H", family) + struct.pack("!H", port) + flow + packed + rest


def _result_of_connect(fd: int, name: bytes, *, is_async: bool) -> int:
    """0, or a negative errno."""
    params = bytearray(_PARAMS.size)
    ring = _called(_SETUP, 1, _address(params))
    try:
        (
            _,
            _,
            _,
            _,
            _,
            features,
            *_,
        ) = numbers = _PARAMS.unpack(params)
        if not features & _SINGLE_MMAP:
            raise OSError(errno.ENOSYS, "io_uring maps its rings apart before Linux 5.4")
        _, sq_tail, _, _, _, _, sq_array, _, _ = numbers[10:19]
        cq_head, _, _, entries, _, cqes, *_ = numbers[19:28]
        with (
            mmap.mmap(ring, max(sq_array + 4, cqes + entries * _CQE.size)) as rings,
            mmap.mmap(ring, _SQE.size, offset=_SQES) as submissions,
        ):
            kept = ctypes.create_string_buffer(name, len(name))
            flags = _ASYNC if is_async else 0
            submissions[:] = _SQE.pack(
                _OP_CONNECT, flags, 0, fd, len(name), ctypes.addressof(kept), 0, 0, 0
            )
            struct.pack_into("=I", rings, sq_array, 0)
            struct.pack_into("=I", rings, sq_tail, 1)
            _called(_ENTER, ring, 1, 1, _GETEVENTS, None, 0)
            (head,) = struct.unpack_from("=I", rings, cq_head)
            _, result, _ = _CQE.unpack_from(rings, cqes + head * _CQE.size)
            return int(result)
    finally:
        os.close(ring)


def _address(of: bytearray) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(of)))


def _called(*words: object) -> int:
    """What syscall(2) returns; raises OSError."""
    result = int(_libc.syscall(*words))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {words[0]}")
    return result
