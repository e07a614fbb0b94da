"""Rules of tests/helpers/h2_rules.py about requests, answers and trailers."""

from __future__ import annotations

import re
from ipaddress import ip_address

from tests.helpers.h2_case import Case, is_plain, resets, without
from tests.helpers.h2_library import Account, Said, State
from uproxy.hbone.budgets import MAX_INFORMATIONAL
from uproxy.hbone.codes import ErrorCode

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_AUTHORITY = re.compile(rb"(?:\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]|([0-9.]+)):([0-9]{1,5})")


def malformed_messages_concern_a_stream(case: Case, said: Account) -> Account | None:
    """§8.1.1: a malformed request or response is an error of its stream; h2 ends the connection."""
    if case.head is None or not is_plain(case.error) or not case.frame.stream & 1:
        return None
    is_right = case.is_request or case.before is State.OPEN
    return resets(case, ErrorCode.PROTOCOL_ERROR) if is_right else None


def names_are_tokens(case: Case, said: Account) -> Account | None:
    """RFC 9110 §5.1: a name is a token; h2 refuses only what §8.2.1 names."""
    names = [name for name, _ in _headers(said) if not name.startswith(b":")]
    if all(_TOKEN.fullmatch(name) for name in names):
        return None
    return resets(case, ErrorCode.PROTOCOL_ERROR)


def a_connect_has_an_authority(case: Case, said: Account) -> Account | None:
    """§8.5: a CONNECT has `:authority`, with host and port; h2 takes an empty one, and `host`."""
    request = _request(said)
    if request is None or request[b":method"] != b"CONNECT" or request.get(b":authority"):
        return None
    return resets(case, ErrorCode.PROTOCOL_ERROR)


def a_connect_is_not_extended(case: Case, said: Account) -> Account | None:
    """RFC 8441 §3: `:protocol` is for peers that announce it, which we don't; h2 takes it."""
    if b":protocol" in (_request(said) or ()):
        return resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def a_method_is_not_empty(case: Case, said: Account) -> Account | None:
    """RFC 9110 §9.1: a method is a token; h2 takes an empty one."""
    if (_request(said) or {}).get(b":method") == b"":
        return resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def a_tunnel_carries_connect_to_addresses(case: Case, said: Account) -> Account | None:
    """Other methods and authorities are well formed, and answered with 400: what comes of their
    content is not wanted (§8.1: RST_STREAM with NO_ERROR)."""
    request, stream = _request(said), case.frame.stream
    if request is None:
        return None
    if request[b":method"] == b"CONNECT" and _is_address(request[b":authority"]):
        return None
    ended = ("end", stream) in said.heard
    resets: list[Said] = [] if ended else [("reset", stream, int(ErrorCode.NO_ERROR))]
    return Account([("refused", stream)], [("answer", stream, 400, True), *resets])


def a_status_has_three_digits(case: Case, said: Account) -> Account | None:
    """§8.3.2, RFC 9110 §15: h2 takes anything for a `:status`; and HTTP/2 has no 101 (§8.6)."""
    if not said.heard or said.heard[0][0] not in ("answer", "informational"):
        return None
    status = dict(said.heard[0][2])[b":status"]
    if _STATUS.fullmatch(status) and status != b"101":
        return None
    return resets(case, ErrorCode.PROTOCOL_ERROR)


def informational_answers_are_few(case: Case, said: Account) -> Account | None:
    """A limit of ours: an answer must follow so many informational ones."""
    is_one = bool(said.heard) and said.heard[0][0] == "informational"
    if is_one and case.informational >= MAX_INFORMATIONAL:
        return resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def streams_above_the_limit_are_refused(case: Case, said: Account) -> Account | None:
    """§5.1.2: a stream above SETTINGS_MAX_CONCURRENT_STREAMS is reset, with REFUSED_STREAM so that
    it may be tried again; h2, which would end the connection, isn't told of the limit."""
    if case.full and case.is_request and case.head is not None and case.frame.stream & 1:
        return resets(case, ErrorCode.REFUSED_STREAM)
    return None


def trailers_are_not_told(case: Case, said: Account) -> Account | None:
    """Nobody reads them: an application of a tunnel has bytes, and their end."""
    return without("trailers", said)


def informational_answers_are_not_told(case: Case, said: Account) -> Account | None:
    """§8.1: they are no answer, and nobody waits for 103."""
    return without("informational", said)


def _headers(said: Account) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that were heard."""
    is_block = said.heard and said.heard[0][0] in ("request", "answer", "informational", "trailers")
    headers: tuple[tuple[bytes, bytes], ...] = said.heard[0][2] if is_block else ()
    return headers


def _request(said: Account) -> dict[bytes, bytes] | None:
    is_one = said.heard and said.heard[0][0] == "request"
    return dict(reversed(said.heard[0][2])) if is_one else None


def _is_address(text: bytes) -> bool:
    """Whether it is an IP address as it is in URLs, and a port."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        return False
    try:
        ip_address((found[1] or found[2]).decode())
    except ValueError:
        return False
    return True
