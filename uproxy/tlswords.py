"""The words in which TLS failures are reported to people."""

from __future__ import annotations

from typing import Final

ALERTS: Final = {
    10: "unexpected message",
    20: "bad record mac",
    21: "decryption failed",
    22: "record overflow",
    30: "decompression failure",
    40: "handshake failure",
    41: "no certificate",
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
    60: "export restriction",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    90: "user canceled",
    100: "no renegotiation",
    109: "missing extension",
    110: "unsupported extension",
    111: "certificate unobtainable",
    112: "unrecognized name",
    113: "bad certificate status response",
    114: "bad certificate hash value",
    115: "unknown psk identity",
    116: "certificate required",
    120: "no application protocol",
    121: "ech required",
}
"""The names of the TLS alerts by their number, those of earlier versions too (RFC 8446 §6, and the
registry of IANA)."""

_CERTIFICATE: Final = "refused our certificate"
_US: Final = "refused us"
_HANDSHAKE: Final = "broke the handshake off"

_MANGLED: Final = "what it got isn't what we sent, or one of the two TLS libraries is at fault"

_REFUSALS: Final = {
    10: (_HANDSHAKE, "it didn't expect what we sent: its log says why"),
    20: (_HANDSHAKE, _MANGLED),
    21: (_HANDSHAKE, _MANGLED),
    22: (_HANDSHAKE, _MANGLED),
    30: (_HANDSHAKE, _MANGLED),
    40: (
        _HANDSHAKE,
        "no cipher, group or signature in common, or it wants no client's certificate: compare "
        "the TLS settings of both sides",
    ),
    41: (_US, "it found no certificate of ours: does its side demand mutual TLS?"),
    42: (_CERTIFICATE, "it doesn't want {ours}, or can't verify it: its log says why"),
    43: (_CERTIFICATE, "its kind of key, signature or usage isn't for that peer"),
    44: (_CERTIFICATE, "it is on a CRL there: {ours} needs a new one"),
    45: (_CERTIFICATE, "it has expired, or one of the two clocks is wrong"),
    46: (_CERTIFICATE, "it wants another identity than {ours}, or can't tell: its log says why"),
    47: (_HANDSHAKE, "it takes a value that we sent for impossible: its log says why"),
    48: (_CERTIFICATE, "it may lack a bundle for {domain}"),
    49: (_US, "perhaps no rule there names {ours}: its log says why"),
    50: (_HANDSHAKE, _MANGLED),
    51: (_HANDSHAKE, "a signature of ours is wrong to it: has our certificate this key?"),
    60: (_HANDSHAKE, "it takes our keys for too weak"),
    70: (_HANDSHAKE, "no TLS version in common: compare tls.min_version of both sides"),
    71: (_HANDSHAKE, "it wants stronger ciphers or keys: compare the TLS settings of both sides"),
    80: (_HANDSHAKE, "something failed there, not here: its log says why"),
    86: (_HANDSHAKE, "it speaks a newer TLS version than the one that we tried"),
    90: (_HANDSHAKE, "somebody stopped it there"),
    100: (_HANDSHAKE, "it doesn't negotiate anew"),
    109: (_HANDSHAKE, "it misses an extension of TLS: compare the versions of both sides"),
    110: (_HANDSHAKE, "it got an extension of TLS that it didn't ask for"),
    111: (_CERTIFICATE, "it couldn't fetch our certificate"),
    112: (_US, "it has no such server name: compare the destination's addresses and server_name"),
    113: (_CERTIFICATE, "it can't use the OCSP response that came with our certificate"),
    114: (_CERTIFICATE, "our certificate isn't the one whose hash was announced"),
    115: (_US, "it expected a session or a shared key that we don't have"),
    116: (_US, "it found no certificate of ours: is our transport mtls?"),
    120: (_HANDSHAKE, "no application protocol (ALPN) in common"),
    121: (_US, "it answers only clients that encrypt their ClientHello"),
}
"""For each alert, what the peer did, and what to look for.  `{ours}` is our SPIFFE ID, `{domain}`
its trust domain."""

_NO_WORDS: Final = (_HANDSHAKE, "its log says why")


def refusal(who: str, alert: int, ours: str | None) -> str:
    """Return what it means that a handshake ended with an alert of the other side, in one line.

    Args:
        who: the other side's name: `the peer`.
        alert: its number.
        ours: the SPIFFE ID that we show; None: none.
    """
    did, why = _REFUSALS.get(alert, _NO_WORDS)
    domain = "our trust domain" if ours is None else ours.removeprefix("spiffe://").split("/")[0]
    words = why.format(ours=ours or "our identity", domain=domain)
    return f"{who} {did} ({ALERTS.get(alert, f'alert {alert}')}): {words}"


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
