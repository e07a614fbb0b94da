"""Any frames, right or wrong: the compiled session makes of them what the `h2` library does, but
for the rules of tests/helpers/h2_rules.py."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["h2", "tests.helpers"]):
    from tests.helpers import probes
    from tests.helpers.h2_comparison import check


def check_all(data: bytes) -> None:
    """The bytes choose what a peer says, in whole frames."""
    check(data)


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    probes.load("session_probe")  # built now, not while the first input has its time
    atheris.Setup(sys.argv, check_all)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
