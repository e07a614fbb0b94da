"""Reads an authority's YAML: text in, a Definition or an error with every mistake out.

The grammar is built from the same parts as uProxy's own configuration (`config`), so mistakes
read the same: path, value, line, and the nearest valid key.  User and group names are looked
up while reading; `starter` stands for the user or group that runs the authority.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Collection, Iterator

from uproxy.authority.definition import DEFAULT_TTL_S, Definition, DomainDefinition, EntryDefinition
from uproxy.config.document import parse
from uproxy.config.kinds import ListOf, MapOf, Nullable, ScalarKind
from uproxy.config.leaves import BOOLEAN, DURATION, FILE, LABEL, SPIFFE_ID, TRUST_DOMAIN, count
from uproxy.config.nodes import Type
from uproxy.config.records import Draft, Field, Record, build
from uproxy.errors import ConfigError
from uproxy.model import Mistake
from uproxy.spiffe.ids import SpiffeId, TrustDomain

STARTER = "starter"
"""The word for the user or group that runs the authority."""
MIN_TTL_S = 2.0
"""Half of this, the time until renewal, must be longer than PUBLISH_FIRST of `jwt_keys`."""
_MAX_NUMERIC_ID = 2**32 - 2


def parse_definition(text: str) -> Definition:
    """Read the contents of the file.

    Raises:
        ConfigError: with every mistake, in the file's order.
    """
    tree, found = parse(text)
    mistakes = list(found)
    draft = _AUTHORITY.read(tree, "", mistakes)
    if isinstance(draft, Draft):
        mistakes.extend(_check(draft))
    if mistakes:
        raise ConfigError(tuple(sorted(mistakes, key=lambda m: (m.line or 0, m.column or 0))))
    definition = build(draft)
    assert isinstance(definition, Definition)  # noqa: S101  for mypy: the record makes one
    return definition


def _numeric_id(own: Callable[[], int], look_up: Callable[[str], int]) -> Callable[[str], int]:
    """Return a parser of user or group ids: a number, a name that `look_up` knows, or STARTER,
    for which it calls `own`."""

    def parse_id(text: str) -> int:
        if text == STARTER:
            return own()
        if text.isascii() and text.isdigit() and int(text) <= _MAX_NUMERIC_ID:
            return int(text)
        try:
            return look_up(text)
        except KeyError:
            raise ValueError(f"must be a number, a known name or '{STARTER}'") from None

    return parse_id


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    return text


def _id_kind(words: str, parse_id: Callable[[str], int]) -> ScalarKind:
    shape = {"type": ["string", "integer"]}
    return ScalarKind(words, parse_id, shape, frozenset({Type.TEXT, Type.INT}))


_UID = _id_kind("user", _numeric_id(os.getuid, lambda name: pwd.getpwnam(name).pw_uid))
_GID = _id_kind("group", _numeric_id(os.getgid, lambda name: grp.getgrnam(name).gr_gid))
_PATH = ScalarKind("absolute path", _absolute, {"type": "string", "pattern": "^/"})
_DOMAIN_KEY = ScalarKind("trust domain", TrustDomain, {"type": "string"})

_ENTRY = Record(
    EntryDefinition,
    (
        Field("spiffe_id", SPIFFE_ID, "The identity.", required=True),
        Field("hint", LABEL, "A name to choose it by."),
        Field("uid", _UID, "The process's user: a number, a name or `starter`."),
        Field("gid", _GID, "The process's group: a number, a name or `starter`."),
        Field("path", _PATH, "The process's program."),
    ),
    "mapping of spiffe_id and uid, gid or path",
)
_DOMAIN = Record(
    DomainDefinition,
    (
        Field("entries", ListOf(_ENTRY, minimum=0, unique=False), "Who gets which identity."),
        Field("ttl", DURATION, "The life of an SVID.", "10m"),
        Field("jwt_ttl", DURATION, "The life of a JWT-SVID.", "5m"),
        Field("ca_ttl", DURATION, "The life of a CA.", "24h"),
        Field("intermediate", BOOLEAN, "Whether an intermediate signs.", False),
        Field("federates_with", ListOf(TRUST_DOMAIN, minimum=0), "Whose bundles are handed out."),
        Field("revoke", ListOf(SPIFFE_ID, minimum=0), "Identities to revoke."),
        Field("ca", count(1), "Change it, and a new CA takes over.", 1),
        Field("socket", Nullable(_PATH), "The endpoint's path."),
    ),
    "trust domain",
    computed=lambda _draft, key: {"name": key},
)
_AUTHORITY = Record(
    Definition,
    (
        Field("trust_domains", MapOf(_DOMAIN_KEY, _DOMAIN, minimum=1), "By name.", required=True),
        Field("sockets", Nullable(FILE), "The folder of the endpoints."),
    ),
)


def _check(root: Draft) -> Iterator[Mistake]:
    """Yield the mistakes that need more than one field to see."""
    domains = root.get("trust_domains") or {}
    for name, domain in domains.items():
        yield from _check_domain(name, domain, domains.keys())


def _check_domain(name: str, domain: Draft, known: Collection[str]) -> Iterator[Mistake]:
    """Yield the mistakes of one trust domain; `known` are the names of all."""
    ttl, ca_ttl = domain.get("ttl"), domain.get("ca_ttl")
    for key in ("ttl", "jwt_ttl"):
        life = domain.get(key)
        if life is not None and life < MIN_TTL_S:
            yield domain.wrong(key, f"must be at least {MIN_TTL_S:g}s")
    if ca_ttl is not None and ca_ttl < 2 * (ttl or DEFAULT_TTL_S):
        yield domain.wrong("ca_ttl", "must be at least twice the ttl")
    for index, other in enumerate(domain.get("federates_with") or ()):
        if other == name or other not in known:
            reason = "must be another trust domain of this file"
            yield domain.wrong_item("federates_with", index, reason)
    for index, spiffe_id in enumerate(domain.get("revoke") or ()):
        if wrong := _why_not_in(spiffe_id, name):
            yield domain.wrong_item("revoke", index, wrong)
    hints: dict[str, str] = {}
    for entry in domain.drafts("entries"):
        yield from _check_entry(entry, name)
        spiffe_id, hint = entry.get("spiffe_id"), entry.get("hint")
        # a hint tells the SVIDs of one message apart (WA-12)
        if hint and hints.setdefault(hint, spiffe_id) != spiffe_id:
            yield entry.wrong("hint", f"is the hint of {hints[hint]} already")


def _check_entry(entry: Draft, trust_domain: str) -> Iterator[Mistake]:
    """Yield the mistakes of one entry."""
    spiffe_id = entry.get("spiffe_id")
    if spiffe_id is not None and (reason := _why_not_in(spiffe_id, trust_domain)):
        yield entry.wrong("spiffe_id", reason)
    if not any(entry.has(key) for key in ("uid", "gid", "path")):
        yield entry.wrong("uid", f"is missing: say who may have it by uid (such as '{STARTER}'), "
                                 "gid or path")  # fmt: skip


def _why_not_in(text: str, trust_domain: str) -> str | None:
    """Return why the SPIFFE ID can't be a workload of the trust domain; None: it can."""
    spiffe_id = SpiffeId.parse(text)
    if spiffe_id.trust_domain.name != trust_domain:
        return f"must be in the trust domain {trust_domain}"
    return None if spiffe_id.path else "names no workload: add a path"
