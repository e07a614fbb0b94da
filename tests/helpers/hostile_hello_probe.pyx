# cython: language_level=3
"""The engine's own look at a ClientHello, for Python to call: built by hostile_hello.py."""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from uproxy.transport.native.client_hello cimport hello_complete
from uproxy.transport.native.types cimport Channel


def completed_after(pieces: list[bytes]) -> int:
    """How many of the pieces make it complete, coming one after the other; -1: not all of them."""
    cdef Channel channel
    cdef bytes said = b""
    cdef int looks
    memset(&channel, 0, sizeof(Channel))
    for number, piece in enumerate(pieces, 1):
        said += piece
        # the first is looked at where it came, and again where it is kept
        for looks in range(2 if number == 1 else 1):
            if hello_complete(&channel, <const uint8_t *><const char *>said, len(said)):
                return number
    return -1
