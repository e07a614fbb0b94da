"""Any bytes in any pieces as a ClientHello: both engines have received enough at the same piece,
neither before the other."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.hostile_hello import compiled, pieces, python


def check(data: bytes) -> None:
    """Half of `data` says where the other half, read as records, is cut."""
    provider = atheris.FuzzedDataProvider(data)
    cuts = [provider.ConsumeIntInRange(0, 300) for _ in range(provider.ConsumeIntInRange(0, 6))]
    lengths = [provider.ConsumeIntInRange(0, 40) for _ in range(provider.ConsumeIntInRange(0, 6))]
    said = provider.ConsumeBytes(1 << 17)
    for stream in (said, as_records(said, lengths)):
        heard = pieces(stream, cuts)
        assert compiled()(heard) == python(heard), (stream, cuts)


def as_records(content: bytes, lengths: list[int]) -> bytes:
    """A hello that says to be as long as it is, in handshake records of such lengths."""
    message = b"\1" + len(content).to_bytes(3, "big") + content
    stream = b""
    for length in [*lengths, len(message)]:
        piece, message = message[:length], message[length:]
        stream += b"\x16\3\1" + len(piece).to_bytes(2, "big") + piece
    return stream


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    compiled()  # built now, not while the first input has its time
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
