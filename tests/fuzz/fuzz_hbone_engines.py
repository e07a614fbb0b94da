"""Any frames, right or wrong: both engines' sessions hear and say the same."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers import probes
    from tests.helpers.hbone_talk import Talk, both


def check(data: bytes) -> None:
    """The bytes choose what a peer says, in whole frames: of a part the compiled session hears
    more, which is what test_hbone_engines.py's cuts are for."""
    provider = atheris.FuzzedDataProvider(data)
    server = provider.ConsumeBool()
    python, native = both(server=server, opened=0 if server else 3)
    talk = Talk(lambda most: provider.ConsumeIntInRange(0, most))
    said = talk.greeting(server=not server)
    while True:
        assert native.hear(said) == python.hear(said), said
        assert native.said == python.said, said
        if not provider.remaining_bytes():
            break
        said = talk.frame()
    assert native.subject.held == python.subject.held


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    probes.load("session_probe")  # built now, not while the first input has its time
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
