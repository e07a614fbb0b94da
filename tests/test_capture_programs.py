"""Loading the programs into this kernel."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from uproxy.capture import bpf, programs
from uproxy.capture.elf import Program
from uproxy.capture.layout import word
from uproxy.errors import NotPermittedError, UproxyError

needs_root = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading programs into the kernel needs root"),
]


def test_a_relocated_instruction_has_the_maps_descriptor_and_keeps_its_register() -> None:
    code = struct.pack("<BBhiBBhi", 0x18, 0x02, 0, 0, 0, 0, 0, 0)  # r2 = map
    relocated = programs.relocate(Program("p", "sockops", code, ((0, "config"),)), {"config": 77})
    assert relocated == struct.pack("<BBhiBBhi", 0x18, 0x12, 0, 77, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.EPERM, NotPermittedError, "CAP_BPF and CAP_NET_ADMIN"),
        (errno.ENOSYS, UproxyError, "--mode nft"),
        (errno.EINVAL, UproxyError, "invalid argument"),
    ],
)
def test_a_kernel_that_refuses_is_explained(
    code: int, kind: type[UproxyError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(bpf, "create_map", refuse)
    with pytest.raises(kind, match=said), programs.loaded({}):
        pass


@pytest.mark.parametrize("name", ["connect4", "connect6", "lookup", "listen"])
def test_a_kernel_without_the_newest_gets_the_older_variant(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def load(program: str, *_: object) -> int:
        tried.append(program)
        if program == name:
            raise OSError(errno.EINVAL, "unknown func")
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(bpf, "load_program", load)
    monkeypatch.setattr(bpf, "create_map", lambda *_: os.open(os.devnull, os.O_RDONLY))
    with programs.loaded({}) as loaded:
        assert loaded.fallbacks == (name,)
    assert tried.index(f"{name}_old") == tried.index(name) + 1


class TestInTheKernel:
    pytestmark = needs_root

    def test_both_variants_of_every_program_pass_the_verifier(self) -> None:
        with programs.loaded({}) as loaded:
            assert loaded.fallbacks == () or os.uname().release.startswith("5.")
            for name, program in programs.capture_object().programs.items():
                code = programs.relocate(program, loaded.maps)
                descriptor = bpf.load_program(name, programs.kind(program), code, "Dual BSD/GPL")
                os.close(descriptor)

    def test_a_program_that_the_verifier_refuses_is_refused_with_its_words(self) -> None:
        nothing = struct.pack("<BBhi", 0x95, 0, 0, 0)  # exit, without a result
        with pytest.raises(bpf.VerifierError) as refused:
            bpf.load_program("bad", (13, 3), nothing, "GPL")
        assert "R0 !read_ok" in refused.value.log

    def test_a_map_gives_back_what_was_put_into_it(self) -> None:
        with programs.loaded({}) as loaded:
            ports = loaded.maps["ports"]
            assert list(bpf.keys(ports, 4)) == []
            for number in range(20):
                bpf.update(ports, word(number), word(number + 1))
            assert bpf.lookup(ports, word(7), 4) == word(8)
            assert bpf.lookup(ports, word(99), 4) is None
            assert set(bpf.keys(ports, 4)) == set(map(word, range(20)))
            bpf.delete(ports, word(7))
            bpf.delete(ports, word(7))
            assert bpf.lookup(ports, word(7), 4) is None

    def test_descriptors_are_closed_afterwards(self) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with programs.loaded({}):
            assert len(list(Path("/proc/self/fd").iterdir())) > before + 10
        assert len(list(Path("/proc/self/fd").iterdir())) == before
