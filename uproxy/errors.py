"""Every error uProxy raises on purpose, in one tree.

    UproxyError                 exit 1   failed while running
    ├── UsageError              exit 2   wrong command line
    ├── ConfigError             exit 2   wrong configuration; carries every mistake found
    ├── NotPermittedError       exit 3   a privilege is missing; the message names it
    ├── NoIdentityError         exit 4   no identity in the time given
    ├── IdentityError           exit 1   an SVID, key, bundle or CRL that can't be used
    │   ├── SpiffeIdError                text that is not a SPIFFE ID, trust domain or pattern
    │   ├── UnusableError                a whole SVID or key, of a kind that can't be used
    │   ├── BundleError                  trust material that can't be read
    │   └── MessageError                 a Workload API message that breaks its rules

    ├── contract.RefusedError            a connection is refused; carries the outcome
    ├── UntrustedError                   a peer's chain or SVID breaks a rule
    └── EngineError             exit 1   the TLS library isn't the one uProxy was tested with

Messages are one line, lower-case, and name the likely cause and the way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from uproxy.model import Alert, Claim, Mistake


def in_words(error: OSError) -> str:
    """Return why the system refused, in lower case, without a file's name."""
    return (error.strerror or str(error) or type(error).__name__).lower()


class UproxyError(Exception):
    """The root of the tree: a failure whose message explains it in one line."""

    exit_code: ClassVar[int] = 1


class InUseError(UproxyError):
    """Somebody else listens at an address."""


class UsageError(UproxyError):
    """The command line can't be understood."""

    exit_code = 2


class ConfigError(UproxyError):
    """The configuration is wrong; `mistakes` holds every mistake, in file order."""

    exit_code = 2

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("; ".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes

    def in_file(self, name: str) -> ConfigError:
        """Return the same error, with the file's name in each mistake that has a line."""
        return ConfigError(tuple(mistake.in_file(name) for mistake in self.mistakes))


class NotPermittedError(UproxyError):
    """The operating system refused; the message names the missing privilege."""

    exit_code = 3


class NoIdentityError(UproxyError):
    """The Workload API gave no identity before the deadline."""

    exit_code = 4


class IdentityError(UproxyError):
    """An SVID, key, bundle or CRL that can't be used."""


class SpiffeIdError(IdentityError):
    """Text that is not a SPIFFE ID, a trust domain or an identity pattern.

    `rule` is a rule id of docs/reference/spiffe-rules.md (`ID-14`).
    """

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class UnusableError(IdentityError):
    """An SVID or key that is complete, but of a kind that can't be used; waiting doesn't help."""


class BundleError(IdentityError):
    """Trust material (PEM, DER, JWKS, CRL) that can't be read."""


class MessageError(IdentityError):
    """A Workload API message that breaks the rules of the standard."""


class UntrustedError(UproxyError):
    """A peer's certificate chain breaks a rule, so nothing may be relayed.

    `rule` is a rule id of docs/reference/spiffe-rules.md (`X5-2`); `alert` is the TLS alert
    that is sent to the peer; `claim` is what the leaf says of itself, None if it can't be read.
    """

    claim: Claim | None = None

    def __init__(self, rule: str, reason: str, alert: Alert) -> None:
        super().__init__(f"{reason} ({rule})")
        self.rule = rule
        self.reason = reason
        self.alert = alert


class EngineError(UproxyError):
    """The process's TLS library is not one uProxy was tested with, or the configured engine
    can't be loaded."""
