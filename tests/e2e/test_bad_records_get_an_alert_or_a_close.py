"""A stranger says what isn't TLS, or isn't TLS enough, before any key is agreed on.

Whatever comes is refused with the alert that fits, or with a close where the other side hasn't
spoken TLS at all; it costs one line and one count, and the next caller is served.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial

import pytest

from tests.helpers import hostile_account
from tests.helpers.endings import ended, only
from tests.helpers.hostile_account import FRONTEND, account, answers, costs_no_memory, serves
from tests.helpers.hostile_client import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HEARTBEAT,
    TLS_1_2,
    TLS_1_3,
    RawClient,
    Received,
    hello,
    record,
    records,
)
from uproxy.lab.mesh import FileWorld, Inbound
from uproxy.lab.pki import Issued

door = hostile_account.door
counted_door = hostile_account.counted_door

UNEXPECTED, BAD_MAC, OVERFLOW, FAILURE = 10, 20, 22, 40
ILLEGAL, DECODE, VERSION, MISSING = 47, 50, 70, 109
"""Alerts (RFC 8446 §6)."""

NO_TLS = "the other side doesn't speak TLS"
CUT = "closed in the middle of a ClientHello"
NO_VERSION = "no TLS version in common"
STRANGE = "unexpected message"


@dataclass(frozen=True, slots=True)
class Said:
    """What a stranger says, and what becomes of it."""

    data: bytes
    alert: int | None
    """In answer; None: a close, and not a byte."""
    words: str
    """Of the error in the access log."""
    finish: bool = False
    """The stranger says no more, and says so with a FIN."""


def with_length(body: bytes, length: int) -> bytes:
    """A handshake message that lies about its length."""
    return body[:1] + length.to_bytes(3, "big") + body[4:]


HELLO = hello()
CHANGE = record(b"\1", CHANGE_CIPHER_SPEC, version=0x0303)
BEFORE = {
    # not TLS
    "noise": Said(b"\xff" + os.urandom(300), None, NO_TLS),
    "zeros": Said(bytes(300), None, NO_TLS),
    "HTTP": Said(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", None, "plain HTTP"),
    "SSH": Said(b"SSH-2.0-OpenSSH_9.9\r\n", None, NO_TLS),
    "SSL 2": Said(b"\x80\x2e\1\3\1\0\x15\0\0\0\x10" + os.urandom(37), None, NO_TLS),
    "a record of version 0x9999": Said(record(HELLO, version=0x9999), None, NO_TLS),
    # cut short
    "one byte": Said(b"\x16", None, CUT, finish=True),
    "a header": Said(b"\x16\3\1\2\0", None, CUT, finish=True),
    "half a hello": Said(record(HELLO)[:60], None, CUT, finish=True),
    "half a large record": Said(record(HELLO[:40], length=16_000), None, CUT, finish=True),
    # too large
    "a record one byte too large": Said(record(bytes(2**14 + 1)), OVERFLOW, "too long"),
    "the largest record": Said(record(with_length(bytes(65_535), 65_531)), OVERFLOW, "too long"),
    "a hello of 16 MiB": Said(
        records(b"\1\xff\xff\xff" + bytes(100_000), 2**14), ILLEGAL, "excessive message size"
    ),
    "the header of a record one byte too large": Said(
        record(b"", length=2**14 + 1), OVERFLOW, "too long"
    ),
    "and the first byte of a hello": Said(record(b"\1", length=2**14 + 1), OVERFLOW, "too long"),
    "a second record too large": Said(
        record(HELLO[:40]) + record(b"", length=2**16 - 1), OVERFLOW, "too long"
    ),
    # empty
    "an empty handshake record": Said(record(b""), UNEXPECTED, STRANGE),
    "an empty handshake record in a hello": Said(
        record(HELLO[:40]) + record(b"") + record(HELLO[40:]), UNEXPECTED, STRANGE
    ),
    "1,000 empty handshake records": Said(record(b"") * 1000, UNEXPECTED, STRANGE),
    "an empty alert": Said(record(b"", ALERT), UNEXPECTED, STRANGE),
    "empty data": Said(record(b"", APPLICATION_DATA) * 1000, UNEXPECTED, STRANGE),
    # something else first, of which no more comes
    "the header of data": Said(record(b"", APPLICATION_DATA, length=2**14), UNEXPECTED, STRANGE),
    "the header of an alert": Said(record(b"", ALERT, length=2), UNEXPECTED, STRANGE),
    "the first byte of a Certificate": Said(record(b"\x0b", length=9_000), UNEXPECTED, STRANGE),
    "an alert in a hello": Said(
        record(HELLO[:40]) + record(b"", ALERT, length=2), UNEXPECTED, STRANGE
    ),
    "the header of version 0x9999": Said(record(b"", version=0x9999, length=300), None, NO_TLS),
    # something else first
    "data": Said(record(b"hello", APPLICATION_DATA), UNEXPECTED, STRANGE),
    "change_cipher_spec": Said(record(b"\1", CHANGE_CIPHER_SPEC), UNEXPECTED, STRANGE),
    "a heartbeat": Said(record(b"\1\x40\0" + bytes(16), HEARTBEAT), UNEXPECTED, STRANGE),
    "a record of type 99": Said(record(b"abc", 99), UNEXPECTED, STRANGE),
    "a fatal alert": Said(record(b"\2\x28", ALERT), UNEXPECTED, STRANGE),
    "close_notify": Said(record(b"\1\0", ALERT), UNEXPECTED, STRANGE),
    "a thousand warnings": Said(record(b"\1\x5a", ALERT) * 1000, UNEXPECTED, STRANGE),
    "a ServerHello": Said(record(b"\2\0\0\x2e" + bytes(46)), UNEXPECTED, STRANGE),
    "Finished": Said(record(b"\x14\0\0\x20" + bytes(32)), UNEXPECTED, STRANGE),
    # a version nobody has asked for
    "SSL 3": Said(record(hello(version=(3, 0), versions=[])), VERSION, "version too low"),
    "TLS 1.0": Said(record(hello(version=(3, 1), versions=[])), VERSION, NO_VERSION),
    "TLS 1.1": Said(record(hello(version=(3, 2), versions=[])), VERSION, NO_VERSION),
    "TLS 1.2": Said(record(hello(version=TLS_1_2, versions=[])), VERSION, NO_VERSION),
    "TLS 1.2 as a fallback": Said(
        record(hello(versions=[], ciphers=[0xC02B, 0x5600])), VERSION, NO_VERSION
    ),
    "TLS 1.3 in the old place": Said(
        record(hello(version=TLS_1_3, versions=[])), VERSION, NO_VERSION
    ),
    "TLS 1.4": Said(record(hello(versions=[(3, 5)])), VERSION, NO_VERSION),
    # a hello that makes no sense
    "bytes behind the hello": Said(
        record(with_length(HELLO, len(HELLO) + 6) + bytes(10)), DECODE, "length mismatch"
    ),
    "a session id longer than all": Said(
        record(HELLO[:38] + b"\xff" + HELLO[39:]), DECODE, "length mismatch"
    ),
    "an extension twice": Said(record(hello(more=[(10, b"\0\2\0\x1d")])), ILLEGAL, "bad extension"),
    "a name that is none": Said(record(hello(more=[(0, b"\xff\xff")])), DECODE, "bad extension"),
    "an empty list of protocols": Said(record(hello(more=[(16, b"\0\0")])), DECODE, "bad ext"),
    "a share of a group not offered": Said(
        record(hello(groups=[0x17], shares=[0x1D])), ILLEGAL, "bad key share"
    ),
    "no groups": Said(record(hello(groups=[])), MISSING, "missing supported groups"),
    "no signatures": Said(record(hello(signatures=[])), MISSING, "missing sigalgs"),
    "no ciphers": Said(record(hello(ciphers=[])), DECODE, "no ciphers"),
    "no cipher in common": Said(record(hello(ciphers=[0x1304])), FAILURE, "no cipher in common"),
    "no group in common": Said(
        record(hello(groups=[0x1234], shares=[])), FAILURE, "no group in common"
    ),
}
"""Until there is a ServerHello, an alert comes in the clear."""

SEALED = {
    "the hello again": (record(HELLO), "bad record type"),
    "noise": (b"\xff" * 100, "bad record type"),
    "a Certificate in the clear": (record(b"\x0b\0\0\4" + bytes(4), version=0x0303), "bad record"),
    "data that was never sealed": (
        record(os.urandom(64), APPLICATION_DATA, version=0x0303),
        "bad record mac",
    ),
    "data too short to be sealed": (
        record(b"a", APPLICATION_DATA, version=0x0303),
        "bad record mac",
    ),
    "a sealed record too large": (
        record(bytes(2**14 + 257), APPLICATION_DATA, version=0x0303),
        "too long",
    ),
    "a wrong change_cipher_spec": (record(b"\2", CHANGE_CIPHER_SPEC, version=0x0303), "ccs"),
    "an empty change_cipher_spec": (record(b"", CHANGE_CIPHER_SPEC, version=0x0303), "ccs"),
    "1,000 times change_cipher_spec": (
        CHANGE * 1000,
        "unexpected ccs",
    ),
    "a FIN": (b"", "closed in the middle of the handshake"),
}
"""Behind a good hello: what the server then says is sealed with keys that a knocker hasn't."""

WAITING = {
    "nothing": b"",
    "half a hello": record(HELLO)[:60],
    "a hello": record(HELLO),
    "a hello in records of one byte": records(HELLO, 1),
    "a hello of nearly 8 KiB": record(hello(more=[(0x8A8A, bytes(7_500))])),
    "a hello with 1,800 extensions": record(
        hello(more=[(0x4000 + number, b"") for number in range(1_800)])
    ),
    "a hello and change_cipher_spec": record(HELLO) + CHANGE,
}
"""Odd at most, and then silence."""


@pytest.fixture(scope="module")
def web(file_world: FileWorld) -> Issued:
    return file_world.ca.issue(FRONTEND)


def answer_to(uproxy: Inbound, said: Said) -> Received:
    with RawClient(uproxy.port) as stranger:
        stranger.send_bytes(said.data)
        if said.finish:
            stranger.finish()
        return stranger.receive_until_end()


@pytest.mark.parametrize("name", BEFORE)
def test_before_a_hello(door: Inbound, name: str) -> None:
    said = BEFORE[name]
    with account(door, "handshake_failed") as lines:
        heard = answer_to(door, said)

    assert heard.alert == said.alert
    assert len(heard.data) == (0 if said.alert is None else 7)
    assert said.words in only(lines)["error"]


@pytest.mark.parametrize("name", SEALED)
def test_behind_a_hello(door: Inbound, name: str) -> None:
    data, words = SEALED[name]
    with account(door, "handshake_failed") as lines:
        heard = answer_to(door, Said(record(HELLO) + data, None, words, finish=not data))

    assert heard.data.startswith(b"\x16\3\3")  # the ServerHello
    assert words in only(lines)["error"]


def test_silence_is_cut_at_the_deadline(door: Inbound, web: Issued) -> None:
    """All of them at the same time, and callers are served meanwhile."""
    with (
        ended(door, "timed_out", count=len(WAITING)) as lines,
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(RawClient(door.port)) for _ in WAITING]
        for stranger, data in zip(silent, WAITING.values(), strict=True):
            stranger.send_bytes(data)
        heard = {
            name: stranger.receive_until_end()
            for name, stranger in zip(WAITING, silent, strict=True)
        }

    assert [name for name, each in heard.items() if each.alert is not None] == []
    assert {name for name, each in heard.items() if each.data} == {
        name for name in WAITING if name.startswith("a hello")
    }
    assert all("didn't finish the handshake in 5 s" in line["error"] for line in lines)
    serves(door, web)


def test_again_and_again_it_costs_no_memory(counted_door: Inbound, web: Issued) -> None:
    attacks = [partial(answer_to, counted_door, said) for said in BEFORE.values()]
    costs_no_memory(counted_door, attacks)
    answers(counted_door, web)
