"""The kinds of scalars: each combines a parser of `scalars` with its JSON Schema and words."""

from __future__ import annotations

from collections.abc import Callable

from uproxy.config import scalars
from uproxy.config.kinds import Choice, Json, ScalarKind
from uproxy.config.nodes import Type
from uproxy.model import TlsSettings, Transport
from uproxy.spiffe.ids import IdentityPattern, SpiffeId, TrustDomain

_TEXT: Json = {"type": "string", "minLength": 1}
_NUMBERS = frozenset({Type.TEXT, Type.INT, Type.FLOAT})

GROUPS = (
    "X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024",
    "X25519", "X448", "P-256", "P-384", "P-521",
)  # fmt: skip
CIPHERS_13 = TlsSettings().ciphers
CIPHERS_12 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip
"""The TLS 1.2 suites with forward secrecy and AEAD, by OpenSSL's names."""


def _pattern(pattern: str) -> Json:
    """Return the schema of text that matches a regular expression as a whole."""
    return {"type": "string", "pattern": f"^({pattern})$"}


def _canonical(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Return a parser that returns the canonical text of what `parse` returns."""
    return lambda text: str(parse(text))


def _trust_domain(text: str) -> str:
    """Parse a trust domain; of a URI, or of a name with a path, say which part is wanted."""
    _, scheme, rest = text.partition("://")
    name = (rest if scheme else text).partition("/")[0].lower()
    if name == text.lower():
        return str(TrustDomain.parse(text))
    wanted = TrustDomain.parse(name) if name else "its name, such as example.org"
    raise ValueError(f"must be a trust domain alone: write {wanted}")


MAX_COUNT = 2**31 - 1
"""What engines and protocols can count: of streams, RFC 9113 §5.1.1 knows as many numbers."""


def count(minimum: int) -> ScalarKind:
    """Return the kind of whole numbers that are at least `minimum`, and at most MAX_COUNT."""

    def parse(text: str) -> int:
        number = scalars.whole_number(text)
        if number < minimum:
            raise ValueError(f"must be at least {minimum}")
        if number > MAX_COUNT:
            raise ValueError(f"must be at most {MAX_COUNT}")
        return number

    return ScalarKind(
        f"a whole number from {minimum}",
        parse,
        {"type": "integer", "minimum": minimum, "maximum": MAX_COUNT},
        frozenset({Type.INT}),
    )


def size(minimum: str, maximum: str) -> ScalarKind:
    """Return the kind of sizes in bytes from `minimum` to `maximum`, both as written."""
    least, most = scalars.size(minimum), scalars.size(maximum)

    def parse(text: str) -> int:
        number = scalars.size(text)
        if not least <= number <= most:
            raise ValueError(f"must be from {minimum} to {maximum}")
        return number

    return ScalarKind(f"a size from {minimum} to {maximum}", parse, _pattern(scalars.SIZE))


def duration_from(minimum: str) -> ScalarKind:
    """Return the kind of durations that can't be switched off and last at least `minimum`."""
    least = scalars.duration(minimum)

    def parse(text: str) -> float:
        seconds = scalars.duration(text)
        if seconds < least:
            raise ValueError(f"must be at least {minimum}")
        return seconds

    return ScalarKind(f"a duration from {minimum}", parse, _pattern(scalars.DURATION), _NUMBERS)


DURATION = ScalarKind(
    "a duration",
    scalars.duration,
    {"anyOf": [_pattern(scalars.DURATION), {"const": 0}]},
    _NUMBERS,
)
BOOLEAN = ScalarKind("true or false", scalars.boolean, {"type": "boolean"}, frozenset({Type.BOOL}))
PORT = ScalarKind(
    "a port", scalars.port, {"type": "integer", "minimum": 1, "maximum": 65_535},
    frozenset({Type.INT}),
)  # fmt: skip
NETWORK = ScalarKind("a network", scalars.network, _pattern(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?"))
PLAIN_NETWORK = ScalarKind("a network", scalars.plain_network, NETWORK.shape)
_TCP = r".+:[0-9]{1,5}"
_UNIX = "unix:(//)?/.+"
_UNIX_URI = "[uU][nN][iI][xX]:(//)?/[^?#]+"
TARGET = ScalarKind(
    "an address", scalars.target, _pattern(f"{_UNIX}|{_TCP}"), example="127.0.0.1:8080"
)
TCP_TARGET = ScalarKind(
    "an IP address or a name, with a port",
    scalars.tcp_target_only,
    _pattern(_TCP),
    example="db.internal:5432",
)
APPLICATION = ScalarKind("an address", scalars.target_or_host, _TEXT, example="127.0.0.1:8080")
OWN_IP = ScalarKind("an IP address", scalars.own_ip, _pattern("[0-9a-fA-F:.]+"))
LISTENER = ScalarKind(
    "a listen address", scalars.listener, _pattern(f"{_UNIX}|systemd:.+|{_TCP}"),
    example="127.0.0.1:8443",
)  # fmt: skip
ENDPOINT = ScalarKind(
    "a Workload API address", scalars.workload_api, _pattern(f"{_UNIX_URI}|[tT][cC][pP]://{_TCP}")
)
MODE = ScalarKind('an octal mode such as "0600"', scalars.mode, _pattern(scalars.MODE))
OWNER = ScalarKind(
    "a user or user:group", scalars.owner, {"type": ["string", "integer"]},
    frozenset({Type.TEXT, Type.INT}),
)  # fmt: skip
SERVER_NAME = ScalarKind("a host name", scalars.server_name, {**_TEXT, "maxLength": 254})
LABEL = ScalarKind("text", scalars.label, {**_TEXT, "maxLength": 128})
FILE = ScalarKind("a file path", scalars.file_path, _TEXT)
HTTP_PATH = ScalarKind("a path of HTTP", scalars.http_path, _pattern("/[!-~]*"))
ALPN = ScalarKind("a protocol name", scalars.alpn, {**_TEXT, "maxLength": 255})
SEGMENT = ScalarKind("a path segment", scalars.segment, _pattern("[A-Za-z0-9._-]+"))
TRUST_DOMAIN = ScalarKind("a trust domain", _trust_domain, _TEXT)
SPIFFE_ID = ScalarKind(
    "a SPIFFE ID", _canonical(SpiffeId.parse), _pattern("[sS][pP][iI][fF][fF][eE]://.+")
)
PATTERN = ScalarKind(
    "a SPIFFE ID pattern",
    _canonical(IdentityPattern.parse),
    _pattern("[sS][pP][iI][fF][fF][eE]://.+"),
)
TRANSPORT = Choice(("mtls", "hbone", "plaintext"), makes=Transport)
CAPTURED_TRANSPORT = Choice(("mtls", "passthrough", "plaintext"), makes=Transport)
KEEP_OR_CLOSE = Choice(("keep", "close"))
