"""Header blocks of a CONNECT: any bytes, and any headers that are written in order."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.hbone_sessions import CONNECT
    from tests.helpers.tunnel_oracle import check_connect, check_request
    from uproxy.hbone.headers import Encoder

_NAMES = [":method", ":authority", ":path", ":scheme", ":protocol", "host", "te", "baggage", "x"]


def check(data: bytes) -> None:
    """Judge `data` as a block, and as what headers say that are written in order."""
    check_connect(data)
    check_request(data)
    provider = atheris.FuzzedDataProvider(data)
    fields = [] if provider.ConsumeBool() else list(CONNECT)
    for _ in range(provider.ConsumeIntInRange(0, 6)):
        name = provider.PickValueInList(_NAMES)
        if provider.ConsumeBool():
            name = provider.ConsumeUnicodeNoSurrogates(8)
        fields.append((name, provider.ConsumeUnicodeNoSurrogates(40)))
    check_connect(Encoder().encode(fields))


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
