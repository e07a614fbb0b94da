"""Reads a JWTBundlesResponse: the keys with which the tokens of each trust domain are checked.

Rules (`WA-…`, `JW-…` of docs/reference/spiffe-rules.md): a message is the full set; bundles stay
apart by trust domain; if one can't be read, or the agent sends two different ones for a domain, no
token of that domain is believed, and the others are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uproxy.errors import BundleError, SpiffeIdError
from uproxy.spiffe.jwt_bundles import JwtBundle, distrusted_jwt, parse_jwt_bundle
from uproxy.spiffe.jwt_messages import decode_jwt_bundles_response
from uproxy.spiffe.workload_update import trust_domain_in


@dataclass(frozen=True, slots=True)
class JwtUpdate:
    """The content of one JWTBundlesResponse, which replaces that of the last one."""

    bundles: Mapping[str, JwtBundle]
    """By trust domain name."""
    problems: tuple[str, ...]
    """Which trust domains' tokens aren't believed because of the message, and why, in words."""


def parse_jwt_bundles_response(data: bytes) -> JwtUpdate:
    """Read and check a JWTBundlesResponse.

    Raises:
        MessageError: it isn't one; nothing of it may be used.
    """
    given: dict[str, list[bytes]] = {}
    problems = []
    for key, jwks in decode_jwt_bundles_response(data):
        try:
            given.setdefault(trust_domain_in(key), []).append(jwks)
        except SpiffeIdError as error:
            problems.append(f"a JWT bundle is left out, its key is no trust domain: {error}")
    bundles = {name: _bundle(name, documents) for name, documents in given.items()}
    problems += [bundle.problem for bundle in bundles.values() if bundle.problem]
    return JwtUpdate(bundles, tuple(problems))


def _bundle(name: str, documents: list[bytes]) -> JwtBundle:
    try:
        first, *others = (parse_jwt_bundle(name, each, for_tokens_alone=True) for each in documents)
    except BundleError as error:
        return distrusted_jwt(name, f"the agent's bundle can't be used: {error}")
    if any(other != first for other in others):
        return distrusted_jwt(name, "the agent sends different bundles for it (WA-15)")
    return first
