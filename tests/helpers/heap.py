"""How much of this process's memory glibc's malloc has given out, in all its arenas."""

from __future__ import annotations

import ctypes
import os
import re

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_libc.open_memstream.restype = ctypes.c_void_p
_libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.fclose.argtypes = [ctypes.c_void_p]

needs_malloc = pytest.mark.skipif(
    "san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's malloc can't be asked"
)


def in_use() -> int:
    """Return the bytes that were given out and aren't free again (malloc_info(3))."""
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    stream = _libc.open_memstream(ctypes.byref(text), ctypes.byref(size))
    _libc.malloc_info(0, stream)
    _libc.fclose(stream)
    assert text.value is not None
    _, _, all_arenas = text.value.decode().rpartition("</heap>")
    _libc.free(text)
    free = re.findall(r'<total type="(?:fast|rest)" count="\d+" size="(\d+)"', all_arenas)
    held = re.search(r'<system type="current" size="(\d+)"', all_arenas)
    assert held is not None
    return int(held[1]) - sum(map(int, free))
