"""Any bytes in any pieces as what a peer of a tunnel sends: either role hears and answers the same,
however they are cut, and nothing is raised."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.hbone_sessions import CONNECT
    from tests.helpers.tunnel_oracle import check_cuts
    from uproxy.hbone import frames, headers

_BLOCK = headers.Encoder().encode(CONNECT)
_KINDS = [*range(11), 0, 1, 1, 9]
_FLAGS = [0, 1, 4, 5, 8, 12, 13, 32, 36, 40]
_STREAMS = [0, 1, 3, 5, 7, 2]


def check(data: bytes) -> None:
    """`data` says cuts and frames, and the rest of it is what follows them."""
    provider = atheris.FuzzedDataProvider(data)
    cuts = [provider.ConsumeIntInRange(0, 60) for _ in range(provider.ConsumeIntInRange(0, 8))]
    said = b""
    for _ in range(provider.ConsumeIntInRange(0, 12)):
        kind, flags = provider.PickValueInList(_KINDS), provider.PickValueInList(_FLAGS)
        stream = provider.PickValueInList(_STREAMS)
        payload = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 24))
        if provider.ConsumeBool():
            payload = _BLOCK
        said += frames.frame(kind, flags, stream, payload)
    check_cuts(said + provider.ConsumeBytes(1 << 16), cuts)


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
