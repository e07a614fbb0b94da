"""Reading a BPF object: what clang makes is understood, anything else is refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.capture.elf import MapDefinition, ObjectError, read_object

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "uproxy/capture/objects/capture.bpf.o"
GOOD = SHIPPED.read_bytes()


def test_the_shipped_object_has_every_program_with_its_maps() -> None:
    found = read_object(GOOD)
    assert {name: each.section for name, each in found.programs.items()} == {
        "connect4": "cgroup/connect4",
        "connect4_old": "cgroup/connect4/old",
        "connect6": "cgroup/connect6",
        "connect6_old": "cgroup/connect6/old",
        "lookup": "sk_lookup",
        "lookup_old": "sk_lookup/old",
        "listen": "sockops",
        "listen_old": "sockops/old",
        "disown": "sockops/disown",
        "guard": "cgroup_skb/egress",
    }
    used = {name: {each for _, each in p.maps} for name, p in found.programs.items()}
    assert used["connect4"] == {"config", "own", "addresses", "ports", "listeners", "stats"}
    assert used["listen"] == {"config", "listeners"}
    assert found.maps["config"] == MapDefinition(2, 4, 40, 1, 0)
    assert found.maps["addresses"] == MapDefinition(11, 20, 4, 16384, 1)
    assert found.license == "Dual BSD/GPL"
    assert found.compiler.startswith("clang ")


def test_the_shortcuts_share_three_maps_with_what_captures() -> None:
    found = read_object((SHIPPED.parent / "shortcut.bpf.o").read_bytes())
    assert {name: each.section for name, each in found.programs.items()} == {
        "meet": "sockops",
        "carry": "sk_msg",
    }
    used = {name: {each for _, each in p.maps} for name, p in found.programs.items()}
    assert used["meet"] == {"config", "own", "senders", "receivers"}
    assert used["carry"] == {"kernel", "senders", "receivers", "stats"}
    captures = read_object(GOOD).maps
    shared = ("config", "stats", "own")
    assert {name: found.maps[name] for name in shared} == {name: captures[name] for name in shared}
    assert found.maps["senders"] == found.maps["receivers"] == MapDefinition(18, 36, 8, 65536, 0)


def test_every_relocated_instruction_loads_a_map() -> None:
    for program in read_object(GOOD).programs.values():
        assert len(program.code) % 8 == 0
        assert all(program.code[offset] == 0x18 for offset, _ in program.maps)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "damaged"),
        (b"\x7fELF" + bytes(60), "not a relocatable"),
        (GOOD[:0x12] + b"\x3e\x00" + GOOD[0x14:], "not a relocatable"),  # of an x86-64
        (GOOD[:-64], "damaged"),
    ],
)
def test_what_is_no_bpf_object_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ObjectError, match=why):
        read_object(data)


def test_a_relocation_of_something_else_than_a_map_is_refused() -> None:
    first = read_object(GOOD).programs["connect4"].maps[0]
    at = GOOD.index(struct.pack("<QI", first[0], 1))  # offset, R_BPF_64_64; then the symbol
    broken = GOOD[: at + 12] + struct.pack("<I", 1) + GOOD[at + 16 :]
    with pytest.raises(ObjectError, match="no map"):
        read_object(broken)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_damage_is_noticed_or_harmless(changes: list[tuple[int, int]]) -> None:
    broken = bytearray(GOOD)
    for at, value in changes:
        broken[at] = value
    try:
        found = read_object(bytes(broken))
    except ObjectError:
        return
    for program in found.programs.values():
        assert all(name in found.maps for _, name in program.maps)
        assert all(0 <= offset < len(program.code) for offset, _ in program.maps)


@pytest.mark.parametrize("name", ["capture", "shortcut"])
def test_the_shipped_object_is_what_clang_makes_of_the_sources(name: str, tmp_path: Path) -> None:
    """Byte for byte with the clang that made it; with another one the same maps and programs."""
    assert shutil.which("clang"), "make test-packages"
    subprocess.run(["make", "-s", f"OUT={tmp_path}"], cwd=ROOT / "bpf_redirect", check=True)
    made, there = (folder / f"{name}.bpf.o" for folder in (tmp_path, SHIPPED.parent))
    built, shipped = read_object(made.read_bytes()), read_object(there.read_bytes())
    if built.compiler == shipped.compiler:
        assert made.read_bytes() == there.read_bytes(), "make bpf, and commit the object"
    assert built.maps == shipped.maps
    assert {name: each.section for name, each in built.programs.items()} == {
        name: each.section for name, each in shipped.programs.items()
    }
