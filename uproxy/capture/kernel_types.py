"""Where the running kernel has the members of its own structures: from its types (BTF).

The kernel offers them as /sys/kernel/btf/vmlinux, which `of_this_kernel` reads; the rest is pure.
Only the structures that are asked for are looked for: to read all of them takes longer than
everything else that capture does.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from uproxy.errors import UproxyError

SOURCE: Final = Path("/sys/kernel/btf/vmlinux")

_HEADER: Final = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
_TYPE: Final = struct.Struct("<III")
_MEMBER: Final = struct.Struct("<III")
_STRUCT = 4
"""BTF_KIND_STRUCT."""
_WORD = 4
"""Everything among the types begins at a multiple of it."""


class TypesError(UproxyError):
    """The kernel's types can't be read, or lack something."""


class KernelTypes:
    """The types of a kernel, as bytes of BTF.

    Raises:
        TypesError: they are none.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, header, types, types_size, names, names_size = _HEADER.unpack_from(data)
        except struct.error:
            raise TypesError("the kernel's types are cut off") from None
        if magic != _MAGIC:
            raise TypesError("the kernel's types aren't in little-endian BTF")
        self._types = data[header + types :][:types_size]
        self._names = data[header + names :][:names_size]

    def offset(self, structure: str, member: str) -> int:
        """Return at how many bytes a structure has a member.

        Raises:
            TypesError: there is no such structure or member.
        """
        wanted = self._name(member)
        at = -1
        key = struct.pack("<I", self._name(structure))
        while (at := self._types.find(key, at + 1)) >= 0:
            if at % _WORD == 0 and (found := self._member(at, wanted)) is not None:
                return found
        raise TypesError(f"the kernel has no {member} in struct {structure}")

    def _name(self, name: str) -> int:
        """Return the number that stands for a name; each is there once."""
        at = self._names.find(b"\0" + name.encode() + b"\0")
        if at < 0:
            raise TypesError(f"the kernel has nothing named {name}")
        return at + 1

    def _member(self, at: int, name: int) -> int | None:
        """Return the offset of a member, if a structure that has it is described there."""
        try:
            _, info, size = _TYPE.unpack_from(self._types, at)
            if info >> 24 & 0x1F != _STRUCT:
                return None
            for index in range(info & 0xFFFF):
                its_name, _, bits = _MEMBER.unpack_from(
                    self._types, at + _TYPE.size + index * _MEMBER.size
                )
                if its_name == name and bits % 8 == 0 and bits // 8 < size:
                    return int(bits // 8)
        except struct.error:  # something else, which looked like it
            pass
        return None


def of_this_kernel() -> KernelTypes:
    """Return the running kernel's types.

    Raises:
        TypesError: it tells none.
    """
    try:
        return KernelTypes(SOURCE.read_bytes())
    except OSError as error:
        raise TypesError(
            f"this kernel doesn't tell its types (CONFIG_DEBUG_INFO_BTF; {SOURCE}: "
            f"{error.strerror})"
        ) from None
