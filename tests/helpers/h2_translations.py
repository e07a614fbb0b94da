"""Frames that the `h2` library would take for something else, and what it is given instead, each
with the section of RFC 9113 that decides."""

from __future__ import annotations

from tests.helpers.h2_case import content
from uproxy.hbone.codes import PADDED, PRIORITY, FrameType
from uproxy.hbone.frames import Frame


def ignores_the_reserved_bit(frame: Frame) -> Frame | None:
    """§6.9: the first bit of WINDOW_UPDATE is ignored; h2 takes it for a part of the number."""
    if (
        frame.kind == FrameType.WINDOW_UPDATE
        and len(frame.payload) == 4
        and frame.payload[0] & 0x80
    ):
        return frame._replace(payload=bytes([frame.payload[0] & 0x7F]) + frame.payload[1:])
    return None


def takes_a_block_of_nothing_but_padding(frame: Frame) -> Frame | None:
    """§6.2: only padding that exceeds what is left for the block is an error."""
    if content(frame) == b"" and frame.flags & PADDED and frame.kind == FrameType.HEADERS:
        skipped = 6 if frame.flags & PRIORITY else 1
        return frame._replace(flags=frame.flags & ~PADDED, payload=frame.payload[1:skipped])
    return None


def ignores_what_headers_depend_on(frame: Frame) -> Frame | None:
    """§5.3.2: priorities are ignored; h2 follows RFC 7540, where a stream that depends on itself is
    an error."""
    if frame.kind == FrameType.HEADERS and frame.flags & PRIORITY and content(frame) is not None:
        at = 1 if frame.flags & PADDED else 0
        if int.from_bytes(frame.payload[at : at + 4]) & 0x7FFFFFFF == frame.stream:
            payload = frame.payload[:at] + bytes(4) + frame.payload[at + 4 :]
            return frame._replace(payload=payload)
    return None


def ignores_alternative_services(frame: Frame) -> Frame | None:
    """§5.5: a type that isn't known is ignored, whatever is in it; h2 knows ALTSVC (RFC 7838)."""
    return frame._replace(kind=0xEE) if frame.kind == 0xA else None


TRANSLATIONS = (
    ignores_the_reserved_bit,
    takes_a_block_of_nothing_but_padding,
    ignores_what_headers_depend_on,
    ignores_alternative_services,
)
