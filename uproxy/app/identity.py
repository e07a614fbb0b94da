"""Makes the source of identity that the configuration names, and checks its files."""

from __future__ import annotations

from datetime import UTC, datetime

from uproxy.config.settings import FilesIdentity, IdentitySettings
from uproxy.errors import ConfigError, IdentityError, NotPermittedError, UnusableError, UproxyError
from uproxy.identity.credentials import IdentitySource
from uproxy.identity.file_set import read_files, read_trust
from uproxy.identity.files import FilesSource
from uproxy.model import Mistake


def now() -> datetime:
    """Return the time of the wall clock, UTC."""
    return datetime.now(UTC)


def make_source(settings: IdentitySettings) -> IdentitySource:
    """Return the configured source, not started yet."""
    if settings.files is not None:
        return FilesSource(settings.files, clock=now)
    # h2 is only needed here
    from uproxy.identity.workload_api.source import WorkloadApiSource

    if settings.workload_api is None:
        raise ConfigError((Mistake("identity", "names no source"),))
    return WorkloadApiSource(
        settings.workload_api,
        spiffe_id=settings.spiffe_id,
        hint=settings.hint,
        revocation_grace=settings.revocation_grace,
        clock=now,
    )


def check_files(settings: IdentitySettings) -> tuple[str, ...]:
    """Make sure that `identity.files`, if used, gives an identity now, and a usable bundle for each
    trust domain it names; return warnings about the files.

    Raises:
        ConfigError: the files can't be read, don't fit together or are expired.
        NotPermittedError: one may not be read.
    """
    if settings.files is None:
        return ()
    try:
        files = read_files(settings.files, now())
    except IdentityError as error:
        raise _mistake(error, *_problems(settings.files)) from error
    if files.problems:
        raise ConfigError(tuple(Mistake("identity.files", each) for each in files.problems))
    return files.warnings


def _problems(files: FilesIdentity) -> tuple[str, ...]:
    """Return what is wrong with bundles and CRLs, besides errors of our own certificate."""
    try:
        return read_trust(files).problems
    except IdentityError:
        # it is the mistake that is reported already
        return ()


def refuse_unusable_files(settings: IdentitySettings) -> None:
    """Refuse to start with files that waiting won't mend.  What is missing, half written or
    expired may come right while uProxy runs, as an agent may come.

    Raises:
        ConfigError: a certificate or key is whole, but of a kind that can't be used.
        NotPermittedError: one may not be read.
    """
    if settings.files is None:
        return
    try:
        read_files(settings.files, now())
    except IdentityError as error:
        if isinstance(error, UnusableError) or isinstance(error.__cause__, PermissionError):
            raise _mistake(error) from error


def _mistake(error: IdentityError, *more: str) -> UproxyError:
    if isinstance(error.__cause__, PermissionError):
        return NotPermittedError(str(error))
    return ConfigError(tuple(Mistake("identity.files", each) for each in (str(error), *more)))
