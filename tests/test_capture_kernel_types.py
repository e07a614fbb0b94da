"""Finding members of the kernel's structures in its types."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.capture import kernel_types
from uproxy.capture.kernel_types import KernelTypes, TypesError, of_this_kernel

NAMES = b"\0sock\0sk_family\0sk_rcvbuf\0int\0flags\0"
STRUCT, INT = 4, 1


def name(word: str) -> int:
    return NAMES.index(b"\0" + word.encode() + b"\0") + 1


def described(word: str, *members: tuple[str, int]) -> bytes:
    """A structure of 300 bytes, with members at offsets in bits."""
    head = struct.pack("<III", name(word), STRUCT << 24 | len(members), 300)
    return head + b"".join(struct.pack("<III", name(each), 1, bits) for each, bits in members)


def btf(types: bytes, names: bytes = NAMES) -> bytes:
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + (
        types + names
    )


INTEGER = struct.pack("<IIII", name("int"), INT << 24, 4, 32)
SOCK = described("sock", ("sk_family", 16 * 8), ("flags", 20 * 8 + 3), ("sk_rcvbuf", 244 * 8))
GOOD = btf(INTEGER + SOCK)


def test_a_member_is_found_where_the_kernel_has_it() -> None:
    types = KernelTypes(GOOD)
    assert types.offset("sock", "sk_family") == 16
    assert types.offset("sock", "sk_rcvbuf") == 244


def test_what_only_looks_like_the_structure_is_passed_over() -> None:
    # a member and an integer that have its name
    other = described("int", ("sock", 0)) + struct.pack("<IIII", name("sock"), INT << 24, 4, 32)
    assert KernelTypes(btf(other + SOCK)).offset("sock", "sk_rcvbuf") == 244


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut off"),
        (b"\xeb\x9f" + GOOD[2:], "little-endian"),
        (btf(INTEGER), "no sk_rcvbuf in struct sock"),
        (btf(SOCK[:-12]), "no sk_rcvbuf in struct sock"),
        (btf(SOCK, b"\0none\0"), "nothing named"),
    ],
)
def test_types_without_it_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(TypesError, match=why):
        KernelTypes(data).offset("sock", "sk_rcvbuf")


def test_a_part_of_a_byte_is_no_member_that_can_be_read() -> None:
    with pytest.raises(TypesError, match="no flags"):
        KernelTypes(GOOD).offset("sock", "flags")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_damage_is_noticed_or_harmless(changes: list[tuple[int, int]]) -> None:
    broken = bytearray(GOOD)
    for at, value in changes:
        broken[at] = value
    try:
        found = KernelTypes(bytes(broken)).offset("sock", "sk_rcvbuf")
    except TypesError:
        return
    assert 0 <= found < 1 << 32


def test_a_kernel_that_tells_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_types, "SOURCE", kernel_types.SOURCE / "nowhere")
    with pytest.raises(TypesError, match="CONFIG_DEBUG_INFO_BTF"):
        of_this_kernel()


@pytest.mark.skipif(not kernel_types.SOURCE.exists(), reason="this kernel doesn't tell its types")
def test_this_kernel_has_a_family_in_every_socket() -> None:
    types = of_this_kernel()
    assert types.offset("sock_common", "skc_family") == 16
    assert 0 < types.offset("sock", "sk_rcvbuf") < 2048
