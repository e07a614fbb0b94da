"""A crowd of clients in C that shake hands as fast as they can: tests/peers/flood/flood.c.

`flood` makes the handshakes with certificates made beforehand (`bad_leaves`, all different),
`key_updates` is one client that asks for new keys and reads nothing.  The program is built
under .cache/peers when its source is younger; it needs the system's OpenSSL with its headers.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from uproxy.lab.pki import Authority, Issued

_ROOT = Path(__file__).parents[3]
_SOURCE = _ROOT / "tests" / "peers" / "flood" / "flood.c"
_BUILT = _ROOT / ".cache" / "peers"
_PATIENCE = 60.0
"""Seconds for COUNT handshakes."""

# each run from an address of its own: what the last one left in TIME_WAIT isn't met
_sources = itertools.cycle(f"127.66.0.{last}" for last in range(1, 255))


@dataclass(frozen=True, slots=True)
class Refused:
    """What a bad leaf is answered with, and by which SPIFFE rule."""

    alert: int
    rule: str


REFUSED = (Refused(48, "X5-14"), Refused(45, "X5-14"), Refused(42, "X5-2"), Refused(48, "X5-17"))
"""Of `bad_leaves`, in their order."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of a crowd."""

    begun: int
    shaken: int
    """Had done their part of the handshake, up to Finished."""
    orderly: int
    """Heard a close_notify, after their own."""
    cut: int
    """Heard the connection's end only."""
    refused: dict[int, int]
    """Heard an alert: how many of which."""
    seconds: float


def program() -> Path:
    """The built program, built now if its source is younger.

    Raises:
        subprocess.CalledProcessError: it doesn't compile: libssl-dev is there?
    """
    _BUILT.mkdir(parents=True, exist_ok=True)
    built = _BUILT / "flood"
    with (_BUILT / "flood.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
            fresh = built.with_suffix(".new")
            flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
            libraries = ["-lssl", "-lcrypto"]
            subprocess.run(["cc", *flags, "-o", fresh, _SOURCE, *libraries], check=True)
            fresh.replace(built)
    return built


def bad_leaves(home: Authority, count: int) -> Iterator[tuple[Refused, Issued]]:
    """So many leaves, no two alike, in turn refused for another reason by whom `home` vouches for:
    signed by somebody who has its name only, expired, with two identities, of a trust domain
    that nobody knows."""
    namesake, nobody = Authority(home.trust_domain), Authority("nowhere.test")
    past = {"not_before": home.now - timedelta(hours=2), "not_after": home.now - timedelta(hours=1)}
    ours = f"spiffe://{home.trust_domain}"
    for number in range(0, count, len(REFUSED)):
        path = f"/ns/flood/sa/{number}"
        yield from zip(
            REFUSED,
            (
                namesake.issue(path),
                home.issue(path, **past),
                home.issue(uris=(f"{ours}{path}", f"{ours}/another")),
                nobody.issue(path),
            ),
            strict=True,
        )


def write_flood(file: Path, crowd: Iterable[Issued]) -> Path:
    """Lay out identities as the program wants them."""
    file.touch(mode=0o600)
    file.write_bytes(b"".join(each.key_pem + each.pem for each in crowd))
    return file


@dataclass(frozen=True, slots=True)
class Pace:
    """How a crowd comes; 0 is no limit."""

    slots: int = 32
    """At a time."""
    count: int = 0
    """In all."""
    rate: int = 0
    """In a second."""
    seconds: float = 0.0
    """After which nobody begins any more."""


@contextlib.contextmanager
def flooding(port: int, identities: Path, pace: Pace) -> Iterator[list[Flood]]:
    """A crowd at a port of loopback, as long as it takes; when the block is left it has ended,
    and the list has what became of it.

    Raises:
        RuntimeError: it failed; in its own words.
    """
    words = [pace.slots, pace.count, pace.rate, pace.seconds]
    argv = [program(), "handshakes", port, next(_sources), identities, *words]
    pipe = subprocess.PIPE
    done: list[Flood] = []
    with subprocess.Popen(list(map(str, argv)), stdout=pipe, stderr=pipe, text=True) as crowd:
        try:
            yield done
            said, errors = crowd.communicate(timeout=pace.seconds + _PATIENCE)
        finally:
            crowd.kill()
    if crowd.returncode:
        raise RuntimeError(errors.strip())
    done.append(_read(said))


def flood(port: int, identities: Path, pace: Pace) -> Flood:
    """The whole of a crowd, waited for.

    Raises:
        RuntimeError: it failed; in its own words.
    """
    with flooding(port, identities, pace) as done:
        pass
    return done[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """How often one client asked for a KeyUpdate."""

    times: int
    stalled: bool
    """The other side took no more for two seconds."""


@contextlib.contextmanager
def key_updates(port: int, identity: Path, count: int) -> Iterator[Asked]:
    """A client that has asked `count` times for a KeyUpdate, or until nobody listened any more,
    and reads no answer; it is there while the block lasts.

    Raises:
        RuntimeError: it failed; in its own words.
    """
    argv = [program(), "updates", port, next(_sources), identity, count]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        list(map(str, argv)), stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as client:
        try:
            assert client.stdout is not None
            assert client.stderr is not None
            said = client.stdout.readline()
            if not said:
                raise RuntimeError(client.stderr.read().strip())
            told = json.loads(said)
            yield Asked(told["asked"], told["stalled"])
        finally:
            client.kill()


def _read(said: str) -> Flood:
    told = json.loads(said)
    refused = {int(alert): count for alert, count in told.pop("refused").items()}
    return Flood(**told, refused=refused)
