"""Any bytes as a BPF object, and the shipped one with bytes overwritten: an object whose programs
know their maps, or ObjectError."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.workload_oracle import spoil
    from uproxy.capture.elf import ObjectError, read_object
    from uproxy.capture.programs import relocate, shipped

_GOOD = shipped("capture")


def check(data: bytes) -> None:
    """Read `data`, and as what befell the shipped object on its way."""
    for candidate in (data, spoil(_GOOD, data)):
        with contextlib.suppress(ObjectError):
            found = read_object(candidate)
            for program in found.programs.values():
                relocate(program, dict.fromkeys(found.maps, 7))


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
