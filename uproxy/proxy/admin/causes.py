"""What can be wrong, in words: kinds of trouble, how bad they are, and the rows with which it is
told."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from uproxy.proxy.admin.row import Row


class Level(enum.StrEnum):
    """How bad something is."""

    BAD = "bad"
    """This uProxy doesn't do what it is there for."""
    WARN = "warn"
    """Somebody or something is refused or at risk; the rest is served."""
    NOTE = "note"
    """Worth knowing; nobody has to do anything."""
    GOOD = "good"

    @property
    def rank(self) -> int:
        """0 for the worst, more for what is better."""
        return tuple(Level).index(self)


class Kind(enum.StrEnum):
    """What is wrong, in the order in which the headline names it."""

    STUCK = "stuck"
    STARTING = "starting"
    DRAINING = "draining"
    IDENTITY = "identity"
    TRUST = "trust"
    CALLERS = "callers"
    REFUSED_THERE = "refused_there"
    PEERS = "peers"
    HANDSHAKES = "handshakes"
    NO_DESTINATION = "no_destination"
    APPLICATION = "application"
    DESTINATION = "destination"
    L7_PROXY = "l7_proxy"
    ADDRESS = "address"
    NAME = "name"
    CONFIGURATION = "configuration"
    RENEWAL = "renewal"
    DISTRUSTED = "distrusted"
    CERTIFICATE = "certificate"
    LIMIT = "limit"
    OTHER = "other"

    def words(self, count: int, *, or_more: bool = False) -> str:
        """Return it in words, where there are `count` of it, or perhaps more."""
        number = f"{count:,} or more" if or_more else f"{count:,}"
        return _WORDS[self][or_more or count != 1].format(number)


_WORDS = {
    Kind.STUCK: ("not answering",) * 2,
    Kind.STARTING: ("starting",) * 2,
    Kind.DRAINING: ("draining",) * 2,
    Kind.IDENTITY: ("no identity",) * 2,
    Kind.TRUST: ("all peers refused",) * 2,
    Kind.CALLERS: ("1 caller refused", "{} callers refused"),
    Kind.REFUSED_THERE: ("refused by 1 destination", "refused by {} destinations"),
    Kind.PEERS: ("1 destination not trusted", "{} destinations not trusted"),
    Kind.HANDSHAKES: ("no handshake with 1 destination", "no handshake with {} destinations"),
    Kind.NO_DESTINATION: (
        "1 door asked for what no destination matches",
        "{} doors asked for what no destination matches",
    ),
    Kind.APPLICATION: ("1 application down", "{} applications down"),
    Kind.DESTINATION: ("1 destination down", "{} destinations down"),
    Kind.L7_PROXY: ("1 L7 proxy down", "{} L7 proxies down"),
    Kind.ADDRESS: ("1 address failing", "{} addresses failing"),
    Kind.NAME: ("1 name not resolved", "{} names not resolved"),
    Kind.CONFIGURATION: ("configuration stale",) * 2,
    Kind.RENEWAL: ("identity not renewed",) * 2,
    Kind.DISTRUSTED: ("1 bundle or CRL unusable", "{} bundles or CRLs unusable"),
    Kind.CERTIFICATE: ("certificate about to expire",) * 2,
    Kind.LIMIT: ("connections near their limit",) * 2,
    Kind.OTHER: ("1 note", "{} notes"),
}


@dataclass(frozen=True, slots=True)
class Trouble(Row):
    """One cause of trouble, with everything that is known about it."""

    kind: Kind
    level: Level
    words: str
    since: datetime | None
    """None: unknown."""
    turn: str
    """Who can end it."""


@dataclass(frozen=True, slots=True)
class Headline(Row):
    """All trouble in one line."""

    level: Level
    """The worst level of what the words say."""
    words: str
    """`3 callers refused, 1 application down, certificate fine`."""
    since: datetime | None
    """Since when something has been wrong; None: nothing is, or it is unknown."""
    turn: tuple[str, ...]
    """The first of those who can end it, and how many more there are."""
