"""SPIFFE IDs, trust domains and identity patterns: text in, values that can't be wrong out.

It is not a URI parser: what the standard doesn't allow in a SPIFFE ID is refused, never
mended.  Rules (`ID-…` of docs/reference/spiffe-rules.md): the scheme and the trust domain
are compared without case and kept in lower case; the path keeps its case; nothing is
percent-decoded; matching takes one step per path segment whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from uproxy.errors import SpiffeIdError

MAX_ID_BYTES = 2048
"""SPIFFE-ID §2.3: the longest URI everybody must support; longer ones are refused."""
MAX_TRUST_DOMAIN_BYTES = 255
"""SPIFFE-ID §2.3."""

_SCHEME = "spiffe://"
_HOST = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_SHOWN = 120  # characters of refused text that a message repeats


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A trust domain by its name, lower case.  Names that look like DNS or IP mean nothing more."""

    name: str

    def __post_init__(self) -> None:
        rule = _broken_host_rule(self.name)
        if rule is not None:
            raise _refusal("a trust domain", self.name, rule)

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read a bare name such as `example.org` (without `spiffe://`).

        Raises:
            SpiffeIdError: naming the rule (SPIFFE-ID §2.1).
        """
        return cls(_lower(text))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID; `str()` gives its canonical form."""

    trust_domain: TrustDomain
    path: str
    """Empty (the trust domain's own ID) or `/` and segments, case-sensitive."""

    def __post_init__(self) -> None:
        rule = _broken_path_rule(self.path)
        if len(str(self)) > MAX_ID_BYTES:
            rule = "ID-15"
        if rule is not None:
            raise _refusal("a SPIFFE ID", str(self), rule)

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read `spiffe://trust-domain/path`; the path may be absent.

        Raises:
            SpiffeIdError: naming the rule (SPIFFE-ID §2).
        """
        host, path = _split(text, "a SPIFFE ID")
        try:
            return cls(TrustDomain(host), path)
        except SpiffeIdError as error:
            raise _refusal("a SPIFFE ID", text, error.rule) from None

    @property
    def namespace_and_account(self) -> tuple[str, str] | None:
        """(X, Y) for exactly the path `/ns/X/sa/Y`, else None."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", account]:
                return namespace, account
        return None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """A SPIFFE ID in which `*` stands for one whole path segment and `**` for any number of
    them, none included.  The trust domain is always exact."""

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    _masks: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        masks: dict[str, int] = {}
        for position, segment in enumerate(self.segments):
            masks[segment] = masks.get(segment, 0) | 1 << position
        object.__setattr__(self, "_masks", masks)

    @classmethod
    def parse(cls, text: str) -> IdentityPattern:
        """Read a pattern such as `spiffe://example.org/ns/web/sa/*`.

        Raises:
            SpiffeIdError: naming the rule.
        """
        host, path = _split(text, "an identity pattern")
        segments = tuple(path.split("/")[1:])
        # wildcards are judged as the plain segments they stand for
        plain = "".join("/" + ("x" if segment in ("*", "**") else segment) for segment in segments)
        rule = "pattern-trust-domain" if "*" in host else _broken_host_rule(host)
        rule = rule or ("pattern-segment" if "*" in plain else _broken_path_rule(plain))
        if not segments:
            rule = rule or "pattern-path"
        if len(text) > MAX_ID_BYTES:
            rule = "ID-15"
        if rule is not None:
            raise _refusal("an identity pattern", text, rule)
        return cls(TrustDomain(host), _without_repeats(segments))

    @property
    def is_exact(self) -> bool:
        """Whether it has no wildcard, so that it means one SPIFFE ID."""
        return "*" not in self._masks and "**" not in self._masks

    def matches(self, identity: SpiffeId) -> bool:
        """Whether `identity` is one of those the pattern means."""
        if identity.trust_domain != self.trust_domain:
            return False
        # Shift-And: bit i is set while the segments so far fit the pattern's first i
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
    """Host (lower case) and path, with all that a URI could have besides refused."""
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
    if host == "":
        return "ID-2"
    for character, rule in (("@", "ID-5"), ("[", "ID-8"), (":", "ID-6"), ("%", "ID-9")):
        if character in host:
            return rule
    if len(host) > MAX_TRUST_DOMAIN_BYTES:
        return "ID-17"
    return None if _HOST.fullmatch(host) else "ID-8"


def _broken_path_rule(path: str) -> str | None:
    if path == "":
        return None
    if "%" in path:
        return "ID-11"
    if path.endswith("/"):
        return "ID-13"
    first, *segments = path.split("/")
    if first != "" or any(segment in ("", ".", "..") for segment in segments):
        return "ID-12"
    return None if all(_SEGMENT.fullmatch(segment) for segment in segments) else "ID-14"


def _lower(text: str) -> str:
    # str.lower maps some letters beyond ASCII into it (the Kelvin sign becomes k)
    return text.lower() if text.isascii() else text


def _without_repeats(segments: tuple[str, ...]) -> tuple[str, ...]:
    """`**/**` means `**`; matching relies on no two in a row."""
    previous = ("", *segments[:-1])
    return tuple(
        segment
        for before, segment in zip(previous, segments, strict=True)
        if not before == segment == "**"
    )


def _refusal(kind: str, text: str, rule: str) -> SpiffeIdError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return SpiffeIdError(f"{shown!r} isn't {kind}: {_REASONS[rule]} ({rule})", rule)
