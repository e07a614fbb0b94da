"""Many TLS clients that do handshakes as fast as they can: tests/peers/flood/flood.c.

`flood` does handshakes with prepared certificates (`bad_leaves`, all different); `key_updates` is
one client that sends KeyUpdates and reads nothing.  The program is built under .cache/peers when
its source has changed; it needs the system's OpenSSL with headers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from uproxy.lab.pki import Authority, Issued, make_key
from uproxy.lab.software.building import BUILT, SOURCES, built
from uproxy.spiffe.presented import MAX_CHAIN, MAX_EXTENSIONS

_TIMEOUT_S = 60.0
"""Seconds that a flood may take at most."""

# each run uses another address, so that it doesn't meet ports in TIME_WAIT
_sources = itertools.cycle(f"127.66.0.{last}" for last in range(1, 255))


@dataclass(frozen=True, slots=True)
class Refused:
    """The alert, and the SPIFFE rule in the log, with which a bad leaf is refused."""

    alert: int
    rule: str


REFUSED = (Refused(48, "X5-14"), Refused(45, "X5-14"), Refused(42, "X5-2"), Refused(48, "X5-17"))
"""For the kinds of `bad_leaves`, in their order."""


@dataclass(frozen=True, slots=True)
class Flood:
    """How a flood of handshakes ended."""

    begun: int
    shaken: int
    """How many did their part of the handshake, up to Finished."""
    orderly: int
    """How many received a close_notify after sending their own."""
    cut: int
    """How many only saw the connection end."""
    refused: dict[int, int]
    """How many received an alert, by the alert's number."""
    seconds: float


def program() -> Path:
    """Return the path of the program, building it if its source has changed.

    Raises:
        subprocess.CalledProcessError: it doesn't compile; is libssl-dev installed?
    """
    return built(BUILT / "flood", SOURCES / "flood", _compile)


def _compile(fresh: Path) -> None:
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    source = SOURCES / "flood" / "flood.c"
    subprocess.run(["cc", *flags, "-o", fresh, source, "-lssl", "-lcrypto"], check=True)


def bad_leaves(home: Authority, count: int) -> Iterator[tuple[Refused, Issued]]:
    """Yield `count` different leaves that a verifier with `home`'s bundle refuses, for four
    reasons in turn: signed by a CA that only has its name, expired, with two identities, of an
    unknown trust domain."""
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


def largest_chain(home: Authority) -> Issued:
    """As much as may be presented at all, and costs the most to refuse: ten certificates, each said
    to be signed by `home`, whose name they have; the leaf with as many extensions, and nearly as
    many names, as one may have."""
    key, root = make_key("p256"), home.root.subject
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"spiffe://{home.trust_domain}/ns/flood/sa/large"),
            *(x509.DNSName(f"{number}.test") for number in range(_NAMES)),
        ]
    )
    leaf = _unlike(home, key, root, names, more=MAX_EXTENSIONS - 1)
    others = [_unlike(home, key, root, _CA, more=MAX_EXTENSIONS - 1) for _ in range(MAX_CHAIN - 1)]
    return Issued((leaf, *others), key)


def chains_beyond(home: Authority) -> Iterator[Issued]:
    """What is too much: many certificates, one of 59 KB with a very long name."""
    leaf, key = home.issue("/ns/flood/sa/many"), make_key("p256")
    other = _unlike(home, key, home.root.subject, _CA, more=0)
    yield Issued((leaf.certificate, *[other] * 70), leaf.key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")] * 4900)
    yield Issued((_unlike(home, key, name, _CA, more=0),), key)


_NAMES = 95
_CA = x509.BasicConstraints(True, None)


def _unlike(
    home: Authority,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: x509.Name,
    extension: x509.ExtensionType,
    *,
    more: int,
) -> x509.Certificate:
    """A certificate with an issuer's name and somebody else's signature; `more` is the number of
    extensions that nobody knows."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(home.root.subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(home.now - timedelta(minutes=1))
        .not_valid_after(home.now + timedelta(hours=1))
        .add_extension(extension, critical=False)
    )
    for number in range(more):
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b""), critical=False)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256())


def write_flood(file: Path, crowd: Iterable[Issued]) -> Path:
    """Write identities as the program reads them."""
    file.touch(mode=0o600)
    file.write_bytes(b"".join(each.key_pem + each.pem for each in crowd))
    return file


@dataclass(frozen=True, slots=True)
class Pace:
    """How handshakes are made; 0 is no limit."""

    slots: int = 32
    """How many at a time."""
    count: int = 0
    """How many in all."""
    rate: int = 0
    """How many in a second."""
    seconds: float = 0.0
    """After this time none is begun."""


@contextlib.contextmanager
def flooding(port: int, identities: Path, pace: Pace) -> Iterator[list[Flood]]:
    """Flood a loopback port while the block runs, and wait for its end; the list gets the
    result.

    Raises:
        RuntimeError: the program failed; with its message.
    """
    words = [pace.slots, pace.count, pace.rate, pace.seconds]
    argv = [program(), "handshakes", port, next(_sources), identities, *words]
    pipe = subprocess.PIPE
    done: list[Flood] = []
    with subprocess.Popen(list(map(str, argv)), stdout=pipe, stderr=pipe, text=True) as crowd:
        try:
            yield done
            said, errors = crowd.communicate(timeout=pace.seconds + _TIMEOUT_S)
        finally:
            crowd.kill()
    if crowd.returncode:
        raise RuntimeError(errors.strip())
    done.append(_read(said))


def flood(port: int, identities: Path, pace: Pace) -> Flood:
    """Flood a loopback port and return the result.

    Raises:
        RuntimeError: the program failed; with its message.
    """
    with flooding(port, identities, pace) as done:
        pass
    return done[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """How often a client has sent a KeyUpdate."""

    times: int
    stalled: bool
    """Whether the other side stopped reading for two seconds."""


@contextlib.contextmanager
def key_updates(port: int, identity: Path, count: int) -> Iterator[Asked]:
    """Yield after a client has sent `count` KeyUpdates, or until the other side stopped
    reading.

    The client reads nothing; it stays connected inside the block.

    Raises:
        RuntimeError: the program failed; with its message.
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
