"""The settings of an authorization rule; a part of the table in `fields`."""

from __future__ import annotations

from uproxy.config.kinds import Choice, Kind, ListOf, WordOr
from uproxy.config.leaves import BOOLEAN, LABEL, NETWORK, PATTERN, PORT, SEGMENT, TRUST_DOMAIN
from uproxy.config.records import Field, Record
from uproxy.config.settings import RuleFrom, RuleSettings, RuleTo


def _with_negation(name: str, kind: Kind, doc: str) -> tuple[Field, Field]:
    """Return the fields `name` and `not_name` of an authorization rule."""
    return Field(name, ListOf(kind), doc), Field(
        f"not_{name}", ListOf(kind), f"All but these: {doc}"
    )


FROM = Record(
    RuleFrom,
    (
        Field("unauthenticated", BOOLEAN, "Callers without an identity, and only those.", False),
        *_with_negation(
            "identities", PATTERN, "SPIFFE ID patterns: `*` is one segment, `**` any number."
        ),
        *_with_negation("trust_domains", TRUST_DOMAIN, "Trust domains."),
        *_with_negation("namespaces", SEGMENT, "X of /ns/X/sa/Y."),
        *_with_negation("service_accounts", SEGMENT, "Y of /ns/X/sa/Y."),
        *_with_negation("cidrs", NETWORK, "The TCP peer's address."),
        *_with_negation(
            "via", LABEL, "The L7 proxy the caller came through; `direct`: through none."
        ),
    ),
    "a mapping of caller fields such as {identities: [spiffe://example.org/ns/web/*]}",
)
TO = Record(
    RuleTo,
    (
        *_with_negation("ports", PORT, "The application's ports."),
        *_with_negation("addresses", NETWORK, "The application's addresses."),
        *_with_negation("inbound", LABEL, "Names of doors."),
    ),
    "a mapping of target fields such as {ports: [8080]}",
)
RULE = Record(
    RuleSettings,
    (
        Field("name", LABEL, "Appears in logs and metrics; its place in the list by default."),
        Field(
            "action",
            Choice(("allow", "deny")),
            "Any matching deny refuses; else an allow must match.",
            required=True,
        ),
        Field(
            "mode",
            Choice(("enforce", "shadow")),
            "A shadow rule is logged, never decides.",
            "enforce",
        ),
        Field("from", WordOr("any", RuleFrom(any=True), FROM), "The callers."),
        Field("to", TO, "The targets; all by default."),
    ),
    computed=lambda draft, _key: {"name": draft.path, "from": RuleFrom()},
)
