"""Which source of identity the configuration asks for."""

from __future__ import annotations

from datetime import UTC, datetime

from uproxy.config.settings import IdentitySettings
from uproxy.errors import ConfigError, IdentityError, NotPermittedError
from uproxy.identity.credentials import IdentitySource
from uproxy.identity.file_set import read_files
from uproxy.identity.files import FilesSource
from uproxy.model import Mistake


def now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


def make_source(settings: IdentitySettings) -> IdentitySource:
    """The configured source, not started yet."""
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
    """Make sure that `identity.files`, if used, gives an identity now; what is worth saying of
    the files all the same.

    Raises:
        ConfigError: the files can't be read, don't fit together or are expired.
        NotPermittedError: one may not be read.
    """
    if settings.files is None:
        return ()
    try:
        return read_files(settings.files, now()).warnings
    except IdentityError as error:
        if isinstance(error.__cause__, PermissionError):
            raise NotPermittedError(str(error)) from error
        raise ConfigError((Mistake("identity.files", str(error)),)) from error
