"""Checks what two proxies really negotiated, from the bytes between them.

A pair is started once more with a tap between A and B, and two connections are made through it.
The hellos are in plaintext.  That both certificates were sent, in the second connection too, is
concluded from the number of encrypted bytes: a resumed handshake has no certificates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.application import ANSWER_BYTES, REQUEST_BYTES, Application, ask
from benchmarks.harness.proxies import CIPHER, ProxyKind, started
from uproxy.lab.mesh import ORDERS, WEB, Identities
from uproxy.lab.tap import Capture, Tap
from uproxy.lab.wire import CIPHERS, GROUPS, VERSIONS, read_conversation, read_records

_APPLICATION_DATA = 23


class UnfairError(Exception):
    """The proxies don't do the same, so they can't be compared."""


def observe(kind: ProxyKind, folder: Path, identities: Identities) -> str:
    """Return version, cipher and group of a kind of proxy; `no TLS` for a direct connection.

    Raises:
        UnfairError: something else was negotiated than the others do, or a handshake was resumed.
    """
    if kind.group is None:
        return "no TLS"
    captures = asyncio.run(_tapped(kind, folder, identities))
    seen = {_negotiated(capture) for capture in captures}
    wanted = ("TLS 1.3", CIPHER, kind.group)
    if seen != {wanted}:
        raise UnfairError(f"{kind.title} negotiated {sorted(seen)}, not {wanted}")
    leaves = identities.theirs(WEB).svid, identities.theirs(ORDERS).svid
    for capture in captures:
        _check_certificates(kind, capture, *leaves)
    return ", ".join(wanted)


async def _tapped(kind: ProxyKind, folder: Path, identities: Identities) -> Sequence[Capture]:
    """Return what was captured of two connections through a pair with a tap between A and B; with
    tunnels they may be streams of one, unless two threads have a tunnel each."""
    assert kind.inbound is not None
    assert kind.outbound is not None
    with (
        Application(folder) as application,
        started(kind.inbound(folder, identities, application.port)) as b,
    ):
        async with Tap(b.port) as tap:
            outbound = kind.outbound(folder, identities, tap.port, application.port)
            with started(outbound) as a:
                for _ in range(2):
                    sock = await asyncio.to_thread(ask, a.port)
                    sock.close()
            # an early dial without a request, a health check say, carries nothing encrypted
            captures = [each for each in tap.captures if _encrypted_bytes(each.from_server)]
    if len(captures) not in ((1, 2) if kind.tunnels else (2,)):
        raise UnfairError(f"{kind.title} made {len(captures)} TLS connections of two")
    return captures


def _negotiated(capture: Capture) -> tuple[str, str, str]:
    hello = read_conversation(bytes(capture.from_client), bytes(capture.from_server)).server
    group = hello.share.group
    return (
        VERSIONS.get(hello.version, hex(hello.version)),
        CIPHERS.get(hello.cipher, hex(hello.cipher)),
        GROUPS.get(group, hex(group)),
    )


def _check_certificates(kind: ProxyKind, capture: Capture, client: Path, server: Path) -> None:
    """Refuse a capture in which too few bytes were encrypted to include both certificates."""
    sent = (
        (_encrypted_bytes(capture.from_client) - REQUEST_BYTES, client),
        (_encrypted_bytes(capture.from_server) - ANSWER_BYTES, server),
    )
    for size, leaf in sent:
        # PEM is a third more than the DER that travels, as room for what else is encrypted
        if size < leaf.stat().st_size * 3 // 4:
            raise UnfairError(f"{kind.title} made a handshake without {leaf.parent.name}")


def _encrypted_bytes(data: bytearray) -> int:
    records = read_records(bytes(data))
    return sum(len(each.body) for each in records if each.type == _APPLICATION_DATA)
