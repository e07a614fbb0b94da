"""The words in which TLS failures are reported to people."""

from __future__ import annotations

from typing import Final

ALERTS: Final = {
    10: "unexpected message",
    20: "bad record mac",
    22: "record overflow",
    40: "handshake failure",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown ca",
    49: "access denied",
    50: "decode error",
    51: "decrypt error",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    90: "user canceled",
    109: "missing extension",
    110: "unsupported extension",
    112: "unrecognized name",
    116: "certificate required",
    120: "no application protocol",
}
"""The names of the TLS alerts (RFC 8446 §6) by their number."""

CAUSES: Final = {
    "http request": "plain HTTP where TLS was expected",
    "wrong version number": "the other side doesn't speak TLS",
    "packet length too long": "the other side doesn't speak TLS",
    "unsupported protocol": "no TLS version in common",
    "no shared cipher": "no cipher in common",
    "no suitable key share": "no group in common",
    "no shared groups": "no group in common",
    "wrong curve": "the peer's certificate is on a curve that tls.groups leaves out, which TLS 1.2 "
    "demands: add it there",
    "bad signature": "the peer doesn't hold its certificate's key",
    "provider signature failure": "the peer doesn't hold its certificate's key",
    "peer did not return a certificate": "the peer showed no certificate",
    "no application protocol": "no application protocol (ALPN) in common",
}
"""What OpenSSL's reason texts mean, for those that operators meet."""

UNPROVEN: Final = "the handshake ended without a verified peer"
UNASKED: Final = "the peer asked for no certificate: mutual TLS or none"
