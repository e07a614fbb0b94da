"""Both engines' servers choose the same application protocol out of whatever is offered."""

from __future__ import annotations

import ctypes

from hypothesis import given
from hypothesis import strategies as st

from uproxy.libssl.binding import ffi
from uproxy.libssl.callbacks import protocol_chooser
from uproxy.transport.native._engine import CHOOSE_PROTOCOL

names = st.binary(min_size=1, max_size=3) | st.sampled_from([b"h2", b"http/1.1", b"x" * 255])
lists = st.lists(names, min_size=1, max_size=5)

_compiled = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_ubyte), ctypes.c_void_p, ctypes.c_uint, ctypes.c_char_p,
)(CHOOSE_PROTOCOL)  # fmt: skip


def wire(offered: list[bytes]) -> bytes:
    return b"".join(bytes([len(name)]) + name for name in offered)


def by_c(ours: list[bytes], offered: bytes) -> bytes | None:
    """What the compiled engine's function answers; None: the alert."""
    chosen, size = ctypes.c_void_p(), ctypes.c_ubyte()
    there = ctypes.create_string_buffer(offered, len(offered))
    address = ctypes.cast(there, ctypes.c_void_p)
    result = _compiled(None, ctypes.byref(chosen), ctypes.byref(size), address, len(offered),
                       wire(ours) + b"\0")  # fmt: skip
    return ctypes.string_at(chosen.value or 0, size.value) if result == 0 else None


def by_python(ours: list[bytes], offered: bytes) -> bytes | None:
    chosen, size = ffi.new("unsigned char **"), ffi.new("unsigned char *")
    there = ffi.from_buffer("unsigned char[]", offered)
    result = protocol_chooser(ours)(ffi.NULL, chosen, size, there, len(offered), ffi.NULL)
    return bytes(ffi.buffer(chosen[0], size[0])) if result == 0 else None


@given(lists, lists)
def test_the_first_of_ours_that_is_offered(ours: list[bytes], offered: list[bytes]) -> None:
    expected = next((name for name in ours if name in offered), None)
    assert by_c(ours, wire(offered)) == by_python(ours, wire(offered)) == expected


@given(lists, lists, st.integers(1, 200))
def test_a_list_that_breaks_off_is_not_read_beyond_its_end(
    ours: list[bytes], offered: list[bytes], cut: int
) -> None:
    """OpenSSL refuses such a list itself; the compiled function is safe without that."""
    whole = wire(offered)
    chosen = by_c(ours, whole[: max(1, len(whole) - cut)])
    assert chosen is None or chosen in offered
