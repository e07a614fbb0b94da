"""SPIFFE IDs, trust domains and identity patterns, parsed into values that are always valid.

Not a URI parser: what the standard doesn't allow in a SPIFFE ID is refused, never corrected.
Rules (`ID-…` of docs/reference/spiffe-rules.md): scheme and trust domain are compared without
regard to case and stored in lower case; the path keeps its case; nothing is percent-decoded;
matching a pattern takes one step per path segment, whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from uproxy.errors import SpiffeIdError

MAX_ID_BYTES = 2048
"""The longest SPIFFE ID that everybody must support (SPIFFE-ID §2.3); longer ones are refused."""
MAX_TRUST_DOMAIN_BYTES = 255
"""The longest trust domain name (SPIFFE-ID §2.3)."""

_SCHEME = "spiffe://"
_HOST = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_SHOWN = 120  # an error message quotes at most so many characters of the refused text


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, in lower case.  It may look like a DNS name or an IP address,
    but isn't used as one."""

    name: str

    def __post_init__(self) -> None:
        rule = _broken_host_rule(self.name)
        if rule is not None:
            raise _refusal("a trust domain", self.name, rule)

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Parse a name such as `example.org`, without `spiffe://`.

        Raises:
            SpiffeIdError: it names the broken rule (SPIFFE-ID §2.1).
        """
        return cls(_lower(text))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID; `str()` returns its canonical form."""

    trust_domain: TrustDomain
    path: str
    """Empty for the trust domain's own ID, else `/` and segments; case-sensitive."""

    def __post_init__(self) -> None:
        rule = _broken_path_rule(self.path)
        if len(str(self)) > MAX_ID_BYTES:
            rule = "ID-15"
        if rule is not None:
            raise _refusal("a SPIFFE ID", str(self), rule)

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse `spiffe://trust-domain/path`; the path may be absent.

        Raises:
            SpiffeIdError: it names the broken rule (SPIFFE-ID §2).
        """
        host, path = _split(text, "a SPIFFE ID")
        try:
            return cls(TrustDomain(host), path)
        except SpiffeIdError as error:
            raise _refusal("a SPIFFE ID", text, error.rule) from None

    @property
    def namespace_and_account(self) -> tuple[str, str] | None:
        """(X, Y) if the path is exactly `/ns/X/sa/Y`, else None."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", account]:
                return namespace, account
        return None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """A SPIFFE ID in which `*` matches exactly one path segment and `**` any number, also none.
    The trust domain has no wildcards."""

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    _masks: Mapping[str, int] = field(init=False, repr=False, compare=False)
    """For each segment text, a bit set for each position at which the pattern has it."""

    def __post_init__(self) -> None:
        masks: dict[str, int] = {}
        for position, segment in enumerate(self.segments):
            masks[segment] = masks.get(segment, 0) | 1 << position
        object.__setattr__(self, "_masks", masks)

    @classmethod
    def parse(cls, text: str) -> IdentityPattern:
        """Parse a pattern such as `spiffe://example.org/ns/web/sa/*`.

        Raises:
            SpiffeIdError: it names the broken rule.
        """
        host, path = _split(text, "an identity pattern")
        segments = tuple(path.split("/")[1:])
        # wildcards are replaced by a valid segment, so that only the others are checked
        plain = "".join("/" + ("x" if segment in ("*", "**") else segment) for segment in segments)
        rule = "pattern-trust-domain" if "*" in host else _broken_host_rule(host)
        rule = rule or ("pattern-segment" if "*" in plain else _broken_path_rule(plain))
        if not segments:
            rule = rule or "pattern-path"
        if rule is not None:
            raise _refusal("an identity pattern", text, rule)
        return cls(TrustDomain(host), _without_repeats(segments))

    @property
    def is_exact(self) -> bool:
        """Whether the pattern has no wildcard, so that it matches one SPIFFE ID only."""
        return "*" not in self._masks and "**" not in self._masks

    def matches(self, identity: SpiffeId) -> bool:
        """Return whether the pattern matches `identity`."""
        if identity.trust_domain != self.trust_domain:
            return False
        # Shift-And: bit i is set if the segments so far match the first i of the pattern
        one, many = self._masks.get("*", 0), self._masks.get("**", 0)
        states = 1 | (1 & many) << 1
        for segment in identity.path.split("/")[1:]:
            states = (states & (one | self._masks.get(segment, 0))) << 1 | states & many
            states |= (states & many) << 1
        return bool(states >> len(self.segments))

    def __str__(self) -> str:
        return "/".join((f"{_SCHEME}{self.trust_domain.name}", *self.segments))


_REASONS: Mapping[str, str] = {
    "ID-1": "it must begin with spiffe://",
    "ID-2": "the trust domain is missing",
    "ID-3": "a query isn't allowed",
    "ID-4": "a fragment isn't allowed",
    "ID-5": "user information isn't allowed",
    "ID-6": "a port isn't allowed",
    "ID-8": "a trust domain has only lower-case letters, digits, dots, hyphens and underscores",
    "ID-9": "percent-encoding isn't allowed in a trust domain",
    "ID-11": "percent-encoding isn't allowed in a path",
    "ID-12": "empty, '.' and '..' path segments aren't allowed",
    "ID-13": "a trailing slash isn't allowed",
    "ID-14": "a path segment has only letters, digits, dots, hyphens and underscores",
    "ID-15": f"it is longer than {MAX_ID_BYTES} bytes",
    "ID-17": f"the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes",
    "pattern-trust-domain": "a wildcard isn't allowed in the trust domain",
    "pattern-segment": "a wildcard stands for a whole path segment: write * or ** between slashes",
    "pattern-path": "it names no workload: add a path, or /** for the whole trust domain",
}


def _split(text: str, kind: str) -> tuple[str, str]:
    """Return the trust domain in lower case and the path; refuse another scheme, query or
    fragment."""
    rest = text[len(_SCHEME) :]
    rule = None
    if _lower(text[: len(_SCHEME)]) != _SCHEME:
        rule = "ID-1"
    elif len(text) > MAX_ID_BYTES:
        rule = "ID-15"
    elif "?" in rest:
        rule = "ID-3"
    elif "#" in rest:
        rule = "ID-4"
    if rule is not None:
        raise _refusal(kind, text, rule)
    host, slash, path = rest.partition("/")
    return _lower(host), slash + path


def _broken_host_rule(host: str) -> str | None:
    """Return the id of the rule that a trust domain name breaks; None: it is valid."""
    if host == "":
        return "ID-2"
    for character, rule in (("@", "ID-5"), ("[", "ID-8"), (":", "ID-6"), ("%", "ID-9")):
        if character in host:
            return rule
    if len(host) > MAX_TRUST_DOMAIN_BYTES:
        return "ID-17"
    return None if _HOST.fullmatch(host) else "ID-8"


def _broken_path_rule(path: str) -> str | None:
    """Return the id of the rule that a path breaks; None: it is valid, or empty."""
    if "%" in path:
        return "ID-11"
    if path.endswith("/"):
        return "ID-13"
    first, *segments = path.split("/")
    if first != "" or any(segment in ("", ".", "..") for segment in segments):
        return "ID-12"
    return None if all(_SEGMENT.fullmatch(segment) for segment in segments) else "ID-14"


def _lower(text: str) -> str:
    """Return ASCII text in lower case and any other text unchanged."""

    # str.lower maps some other characters to ASCII letters (the Kelvin sign becomes k)
    return text.lower() if text.isascii() else text


def _without_repeats(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Return the segments with each `**` that follows another `**` removed: `matches` relies on
    it."""
    previous = ("", *segments[:-1])
    return tuple(
        segment
        for before, segment in zip(previous, segments, strict=True)
        if not before == segment == "**"
    )


def _refusal(kind: str, text: str, rule: str) -> SpiffeIdError:
    """Return the error for text that is not a `kind`, with the rule's reason."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return SpiffeIdError(f"{shown!r} isn't {kind}: {_REASONS[rule]} ({rule})", rule)
