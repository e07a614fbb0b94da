"""Loads the programs of `bpf_redirect/` into the kernel, and says where each belongs."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import resource
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uproxy.capture import bpf
from uproxy.capture.elf import BpfObject, Program, read_object
from uproxy.errors import NotPermittedError, UproxyError, in_words

_KINDS: Final = {
    "cgroup/connect4": (18, 10),
    "cgroup/connect6": (18, 11),
    "sk_lookup": (30, 36),
    "sockops": (13, 3),
    "sockops/disown": (13, 3),
    "cgroup_skb/egress": (8, 1),
    "sk_msg": (16, 7),
}
"""(program type, attach type) by section, from linux/bpf.h."""

_OLD: Final = "_old"
"""The suffix of a second variant of a program, for older kernels that can't run the first."""
_PSEUDO_MAP_FD: Final = 1
"""BPF_PSEUDO_MAP_FD: the instruction's constant is a map's descriptor."""

PRIVILEGES: Final = "CAP_BPF and CAP_NET_ADMIN, and before Linux 5.11 CAP_SYS_RESOURCE"
"""What bpf(2) demands for these programs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs and their maps, as descriptors by name."""

    programs: Mapping[str, int]
    maps: Mapping[str, int]
    fallbacks: tuple[str, ...]
    """Programs of which this kernel can only run the variant for older ones."""


def shipped(name: str) -> bytes:
    """Return an object file that comes with uProxy."""
    return (Path(__file__).parent / "objects" / f"{name}.bpf.o").read_bytes()


@functools.cache
def capture_object() -> BpfObject:
    """Return the programs that capture."""
    return read_object(shipped("capture"))


@functools.cache
def shortcut_object() -> BpfObject:
    """Return the programs of --short-circuit."""
    return read_object(shipped("shortcut"))


def digest() -> str:
    """Return a digest of the shipped programs, 16 hexadecimal digits."""
    return hashlib.sha256(shipped("capture") + shipped("shortcut")).hexdigest()[:16]


def names(of: BpfObject) -> tuple[str, ...]:
    """Return the programs' names, without the variants for older kernels."""
    return tuple(name for name in of.programs if not name.endswith(_OLD))


def attach_type(of: BpfObject, name: str) -> int:
    """Return a program's attach type."""
    return kind(of.programs[name])[1]


@contextlib.contextmanager
def loaded(reused: Mapping[str, int], of: BpfObject | None = None) -> Iterator[Loaded]:
    """Load every program of an object, by default of those that capture, with new maps, but for
    those given in `reused` as descriptors.

    On leaving, the descriptors are closed, so that only what was attached or pinned stays.

    Raises:
        NotPermittedError: a privilege is missing.
        UproxyError: the kernel can't run a program; the message has the verifier's last lines.
    """
    _lift_limit()
    with contextlib.ExitStack() as stack:
        found = of or capture_object()
        maps = dict(reused)
        for name, definition in found.maps.items():
            if name not in maps:
                with _explained("create", f"map {name}"):
                    maps[name] = bpf.create_map(name, definition)
                stack.callback(os.close, maps[name])
        programs: dict[str, int] = {}
        fallbacks: list[str] = []
        for name in names(found):
            programs[name], is_old = _load(found, name, maps)
            stack.callback(os.close, programs[name])
            if is_old:
                fallbacks.append(name)
        yield Loaded(programs, maps, tuple(fallbacks))


def _lift_limit() -> None:
    """Lift our limit on locked memory, because before Linux 5.11 maps and programs count as such,
    and too much of it gives EPERM."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, OSError):  # without CAP_SYS_RESOURCE it stays
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)


def check() -> None:
    """Make sure that this kernel loads every program for us.

    Raises:
        NotPermittedError: a privilege is missing.
        UproxyError: the kernel can't run a program.
    """
    with loaded({}):
        pass


def relocate(program: Program, maps: Mapping[str, int]) -> bytes:
    """Return a program's instructions with the maps' descriptors in them."""
    code = bytearray(program.code)
    for offset, name in program.maps:
        code[offset + 1] = (code[offset + 1] & 0x0F) | _PSEUDO_MAP_FD << 4
        struct.pack_into("<i", code, offset + 4, maps[name])
    return bytes(code)


def kind(program: Program) -> tuple[int, int]:
    """Return the program type and the attach type that a program's section stands for."""
    return _KINDS[program.section.removesuffix("/old")]


def _load(of: BpfObject, name: str, maps: Mapping[str, int]) -> tuple[int, bool]:
    """Return the descriptor of a loaded program, and whether it is the variant for older
    kernels."""
    older = of.programs.get(f"{name}{_OLD}")
    try:
        return _load_one(of, of.programs[name], maps), False
    except OSError as error:
        if older is None or error.errno == errno.EPERM:
            raise _refusal("load", f"program {name}", error) from None
    with _explained("load", f"program {name}"):
        return _load_one(of, older, maps), True


def _load_one(of: BpfObject, program: Program, maps: Mapping[str, int]) -> int:
    return bpf.load_program(program.name, kind(program), relocate(program, maps), of.license)


@contextlib.contextmanager
def _explained(verb: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(verb, what, error) from None


def _refusal(verb: str, what: str, error: OSError) -> UproxyError:
    if error.errno == errno.EPERM:
        return NotPermittedError(f"the kernel lets us {verb} no {what}: needs {PRIVILEGES}")
    if error.errno == errno.ENOSYS:
        return UproxyError("this kernel has no bpf(2): use --mode nft")
    said = f": {error.log}" if isinstance(error, bpf.VerifierError) else ""
    return UproxyError(
        f"this kernel ({os.uname().release}) can't {verb} {what}: {in_words(error)}{said}; "
        "eBPF capture needs Linux 5.9 or later: use --mode nft"
    )
