"""xxHash64 with the seed 0, by which Envoy tells hashable objects apart, and texts with a chosen
hash, which anybody can make: it isn't a cryptographic one.
"""

from __future__ import annotations

import random

_MASK = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_VISIBLE = range(0x21, 0x7F)
_LANE, _STRIPE = 8, 32


def xxhash64(data: bytes) -> int:
    """Return the hash of some bytes."""
    state, at = _stripes(data)
    return _finished(_rest(state, data[at:]))


def with_hash_of(other: bytes, begins: bytes) -> bytes:
    """Return a text of visible ASCII characters that begins so, and has the hash of another."""
    wanted = _unfinished(xxhash64(other))
    # the last lane is on its own behind the stripes
    base = begins + b"a" * (-len(begins) % _STRIPE)
    while True:
        text = base + bytes(random.choices(_VISIBLE, k=_LANE))  # noqa: S311  noise, not a secret
        state, at = _stripes(text + bytes(_LANE))
        lane = _lane(_rest(state, (text + bytes(_LANE))[at:-_LANE]), wanted)
        if all(byte in _VISIBLE for byte in lane):
            return text + lane


def _stripes(data: bytes) -> tuple[int, int]:
    """Return the state after the whole stripes of 32 bytes, and how many bytes they are."""
    if len(data) < _STRIPE:
        return (_P5 + len(data)) & _MASK, 0
    lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
    end = len(data) // _STRIPE * _STRIPE
    for at in range(0, end, _LANE):
        number = at // _LANE % 4
        lanes[number] = _round(lanes[number], _number(data[at : at + _LANE]))
    state = sum(_left(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
    for lane in lanes:
        state = ((state ^ _round(0, lane)) * _P1 + _P4) & _MASK
    return (state + len(data)) & _MASK, end


def _rest(state: int, data: bytes) -> int:
    whole = len(data) // _LANE * _LANE
    for at in range(0, whole, _LANE):
        mixed = state ^ _round(0, _number(data[at : at + _LANE]))
        state = (_left(mixed, 27) * _P1 + _P4) & _MASK
    data = data[whole:]
    if len(data) >= 4:
        state = (_left(state ^ (_number(data[:4]) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        data = data[4:]
    for byte in data:
        state = _left(state ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    return state


def _lane(state: int, wanted: int) -> bytes:
    """Return the eight bytes that take a state to another, as `_rest` does."""
    mixed = _left((wanted - _P4) * _inverse(_P1) & _MASK, 64 - 27) ^ state
    lane = _left(mixed * _inverse(_P1) & _MASK, 64 - 31) * _inverse(_P2) & _MASK
    return lane.to_bytes(_LANE, "little")


def _round(state: int, lane: int) -> int:
    return _left((state + lane * _P2) & _MASK, 31) * _P1 & _MASK


def _finished(state: int) -> int:
    state = (state ^ state >> 33) * _P2 & _MASK
    state = (state ^ state >> 29) * _P3 & _MASK
    return state ^ state >> 32


def _unfinished(found: int) -> int:
    state = (found ^ found >> 32) * _inverse(_P3) & _MASK
    state = (state ^ state >> 29 ^ state >> 58) * _inverse(_P2) & _MASK
    return state ^ state >> 33


def _inverse(factor: int) -> int:
    return pow(factor, -1, 1 << 64)


def _left(number: int, by: int) -> int:
    return (number << by | number >> (64 - by)) & _MASK


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
