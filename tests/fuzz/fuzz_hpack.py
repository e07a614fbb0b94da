"""Any bytes as header blocks: the compiled engine and the `hpack` library read the same fields, or
both refuse."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["hpack"]):
    from tests.helpers import probes
    from tests.test_transport_native_hpack import check_alike


def check(data: bytes) -> None:
    """The bytes are some blocks for one decoder."""
    provider = atheris.FuzzedDataProvider(data)
    lengths = [provider.ConsumeIntInRange(0, 200) for _ in range(provider.ConsumeIntInRange(1, 6))]
    check_alike([provider.ConsumeBytes(length) for length in lengths])


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    probes.load("session_probe")  # built now, not while the first input has its time
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
