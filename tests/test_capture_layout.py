"""What Python writes into the maps is what the programs read: compared with the C header."""

from __future__ import annotations

import re
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.capture import layout
from uproxy.capture.layout import ABI, Action, Config, Flag, Listener, Stat, Way

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "bpf_redirect/capture.h"


def compiled(tmp_path: Path, expressions: list[str]) -> list[int]:
    """What the C compiler makes of expressions."""
    lines = "".join(f'printf("%lld\\n", (long long)({each}));' for each in expressions)
    source = tmp_path / "ask.c"
    source.write_text(
        f'#include <stdio.h>\n#include <stddef.h>\n#include "{HEADER}"\nint main(void) {{{lines}}}'
    )
    program = tmp_path / "ask"
    subprocess.run(["gcc", "-o", program, source], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Action, ""),
        (Flag, ""),
        (Way, "DIRECTION_"),
        (Listener, "LISTENER_"),
        (Stat, "STAT_"),
    ],
)
def test_numbers_have_the_headers_values(
    kind: type[Action | Flag | Way | Listener | Stat], prefix: str, tmp_path: Path
) -> None:
    names = [f"{prefix}{each.name}" for each in kind]
    assert compiled(tmp_path, names) == [each.value for each in kind]


def test_python_knows_every_number_of_the_header(tmp_path: Path) -> None:
    enums = re.findall(r"enum \w+ \{(.*?)\};", HEADER.read_text(), re.DOTALL)
    named = {name for each in enums for name in re.findall(r"^\t([A-Z_]+)", each, re.MULTILINE)}
    counts = {"LISTENERS": len(Listener), "STATS": len(Stat)}
    kinds = (
        (Action, ""),
        (Flag, ""),
        (Way, "DIRECTION_"),
        (Listener, "LISTENER_"),
        (Stat, "STAT_"),
    )
    known = {f"{prefix}{each.name}" for kind, prefix in kinds for each in kind}
    assert named == known | counts.keys()
    assert compiled(tmp_path, [*counts, "CAPTURE_ABI"]) == [*counts.values(), ABI]


def test_the_config_is_laid_out_as_in_the_header(tmp_path: Path) -> None:
    fields = ("abi", "enabled", "mark", "flags", "outbound_port", "inbound_port", "netns_cookie",
              "proxy_cgroup")  # fmt: skip
    offsets = [f"offsetof(struct capture_config, {each})" for each in fields]
    sizes = [f"sizeof(((struct capture_config *)0)->{each})" for each in fields]
    found = compiled(tmp_path, [*offsets, *sizes, "sizeof(struct capture_config)"])
    config = Config(True, 0x11223344, Flag(0x1F), 0x5566, 0x7788, 0x99AABBCCDDEEFF00, 0x123456789A)
    packed = config.pack()
    assert len(packed) == found[-1] == layout.CONFIG_SIZE
    values = [
        int.from_bytes(packed[at : at + size], "little")
        for at, size in zip(found[:8], found[8:16], strict=True)
    ]
    assert values == [ABI, 1, 0x11223344, 0x1F, 0x5566, 0x7788, 0x99AABBCCDDEEFF00, 0x123456789A]
    assert Config.unpack(packed) == config


def test_keys_are_laid_out_as_in_the_header(tmp_path: Path) -> None:
    found = compiled(
        tmp_path,
        [
            "sizeof(struct capture_prefix)", "offsetof(struct capture_prefix, address)",
            "sizeof(struct capture_port)", "offsetof(struct capture_port, port)",
        ],
    )  # fmt: skip
    key = layout.prefix_key(ip_network("10.1.2.0/24"))
    assert [len(key), 4, len(layout.port_key(Way.INBOUND, 1)), 2] == found
    assert key == (96 + 24).to_bytes(4, "little") + bytes(10) + b"\xff\xff\x0a\x01\x02\x00"
    assert layout.prefix_key(ip_network("2001:db8::/32"))[:8] == b"\x20\0\0\0\x20\x01\x0d\xb8"
    assert layout.port_key(Way.INBOUND, 0x1F90) == b"\x01\x00\x90\x1f"


def test_what_the_shortcuts_read_is_laid_out_as_in_the_header(tmp_path: Path) -> None:
    fields = ("enabled", "chosen", "receiving", "most", "layered", "read", "written")
    found = compiled(
        tmp_path,
        [
            *(f"offsetof(struct capture_kernel, {each})" for each in fields),
            "sizeof(struct capture_kernel)", "sizeof(struct capture_pair)",
            "offsetof(struct capture_pair, remote)", "offsetof(struct capture_pair, local_port)",
            "offsetof(struct capture_pair, remote_port)",
        ],
    )  # fmt: skip
    packed = layout.Kernel(True, 2, 3, 4, 5, 6, 7).pack()
    assert [int.from_bytes(packed[at : at + 4], "little") for at in found[:7]] == [*range(1, 8)]
    key = layout.pair_key(("10.1.2.3", 0x1234), ("2001:db8::9", 0x5678))
    assert [len(packed), len(key), 16, 32, 34] == found[7:]
    assert key[:16] == bytes(10) + b"\xff\xff\x0a\x01\x02\x03"
    assert key[16:] == b"\x20\x01\x0d\xb8" + bytes(11) + b"\x09\x34\x12\x78\x56"


@given(st.lists(st.integers(0, 2**40), max_size=8))
def test_a_counter_is_the_sum_over_the_processors(values: list[int]) -> None:
    raw = b"".join(value.to_bytes(8, "little") for value in values)
    assert layout.sum_counters(raw) == sum(values)
