"""Serves Envoy's secret discovery (SDS), as SPIRE's agent does; pure.

Resource names: `default` is the caller's first identity, a SPIFFE ID that identity, `ROOTCA` the
roots of our own trust domain, `ALL` those of every trust domain that the caller is given, and
`spiffe://NAME` those of one; no name is all of these.  Rules: what is said of a stale response is
ignored; a rejected one is logged, and not sent again until its contents change; a caller that asks
for what it may not have gets nothing, and its stream ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from uproxy.authority.ca import IssuedSvid
from uproxy.authority.calls import NOTHING, CallRefusedError, Reply, ending, no_identity
from uproxy.authority.definition import CallingProcess
from uproxy.authority.discovery_messages import (
    SECRET_TYPE,
    DiscoveryRequest,
    DiscoveryResponse,
    decode_discovery_request,
    encode_certificate,
    encode_discovery_response,
    encode_validation,
)
from uproxy.authority.domain import Domain
from uproxy.authority.handout import DomainSet
from uproxy.errors import MessageError
from uproxy.identity.workload_api.framing import Status
from uproxy.spiffe.encoding import split_der

SECRET_SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"  # noqa: S105  a service's name

_LOG = logging.getLogger(__name__)
_DEFAULT, _ROOT, _ALL = "default", "ROOTCA", "ALL"

Secrets = tuple[bytes, ...]


def secrets_for(
    world: DomainSet, trust_domain: str, caller: CallingProcess, names: tuple[str, ...]
) -> Secrets:
    """Return the encoded secrets with these names, or all of the caller's.

    Raises:
        CallRefusedError: the caller has no identity, or may not have one of them.
    """
    known = _known(world, trust_domain, caller)
    if unknown := [name for name in names if name not in known]:
        text = f"workload is not authorized for the requested identities {sorted(unknown)}"
        raise CallRefusedError(Status.INVALID_ARGUMENT, text)
    return tuple(known[name]() for name in names or _unnamed(known))


def fetch_secrets(
    world: DomainSet, trust_domain: str, caller: CallingProcess, data: bytes
) -> bytes:
    """Return the encoded DiscoveryResponse to a single request.

    Raises:
        CallRefusedError: as `secrets_for`, or the request is invalid.
    """
    request = _request(data)
    secrets = secrets_for(world, trust_domain, caller, request.names)
    return encode_discovery_response(DiscoveryResponse(secrets))


class SecretStream:
    """One StreamSecrets call."""

    def __init__(self, secrets: Callable[[tuple[str, ...]], Secrets], who: str) -> None:
        """`secrets` returns those with the given names as they are now, and may raise
        CallRefusedError; `who` is the caller, in words."""
        self._secrets = secrets
        self._who = who
        self._names: tuple[str, ...] | None = None  # None: nothing has been asked for
        self._sent: Secrets = ()
        self._version = 0
        self._nonce = 0  # that of the last response; 0: there was none

    def started(self) -> Reply:
        return NOTHING

    def received(self, message: bytes) -> Reply:
        try:
            request = _request(message)
        except CallRefusedError as error:
            return ending(error)
        if request.error is not None:
            _LOG.warning("%s rejects its secrets: %s", self._who, request.error)
        if self._nonce and request.nonce != str(self._nonce):
            return NOTHING
        if self._names is not None and set(request.names) == set(self._names):
            return NOTHING
        self._names, self._sent = request.names, ()
        return self.changed()

    def changed(self) -> Reply:
        if self._names is None:
            return NOTHING
        try:
            secrets = self._secrets(self._names)
        except CallRefusedError as error:
            return ending(error)
        if secrets == self._sent:
            return NOTHING
        self._sent = secrets
        self._version += 1
        self._nonce += 1
        response = DiscoveryResponse(secrets, str(self._version), str(self._nonce))
        return Reply(encode_discovery_response(response))


def _request(data: bytes) -> DiscoveryRequest:
    try:
        request = decode_discovery_request(data)
    except MessageError as error:
        raise CallRefusedError(Status.INVALID_ARGUMENT, str(error)) from error
    if request.type_url not in ("", SECRET_TYPE):
        text = f"{request.type_url} isn't served here, only {SECRET_TYPE}"
        raise CallRefusedError(Status.INVALID_ARGUMENT, text)
    return request


def _known(
    world: DomainSet, trust_domain: str, caller: CallingProcess
) -> dict[str, Callable[[], bytes]]:
    """Return what makes each of the caller's secrets, by name."""
    domain = world.domains[trust_domain]
    svids = [svid for _entry, svid in domain.svids_for(caller)]
    if not svids:
        raise no_identity()
    seen = world.seen_from(domain)
    known: dict[str, Callable[[], bytes]] = {
        _DEFAULT: partial(_certificate, _DEFAULT, svids[0]),
        _ROOT: partial(_validation, _ROOT, (domain,)),
        _ALL: partial(_validation, _ALL, seen),
    }
    for each in seen:
        name = f"spiffe://{each.definition.name}"
        known[name] = partial(_validation, name, (each,))
    for svid in svids:
        known[svid.spiffe_id] = partial(_certificate, svid.spiffe_id, svid)
    return known


def _unnamed(known: dict[str, Callable[[], bytes]]) -> tuple[str, ...]:
    """Return the names that come without being asked for: those that aren't others' aliases."""
    return tuple(name for name in known if name not in (_DEFAULT, _ROOT, _ALL))


def _certificate(name: str, svid: IssuedSvid) -> bytes:
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain)
    key = load_der_private_key(svid.key, password=None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encode_certificate(name, chain, pem)


def _validation(name: str, domains: tuple[Domain, ...]) -> bytes:
    return encode_validation(name, sorted((each.definition.name, _pem(each)) for each in domains))


def _pem(domain: Domain) -> bytes:
    roots = (x509.load_der_x509_certificate(der) for der in split_der(domain.bundle))
    return b"".join(root.public_bytes(Encoding.PEM) for root in roots)
