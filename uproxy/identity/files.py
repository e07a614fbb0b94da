"""Identity from files that something else renews (cert-manager, spiffe-helper, a person).

Rules: the files are read as one set and replaced as one; a set that doesn't fit together is tried
again shortly and meanwhile the last good one stays in force until it expires; a bundle or CRL that
can't be used ends the trust in whom it is about, once it has had a second to be written to its
end; nothing that is not in the files is remembered.  The files are looked at in a thread, because
a mount that hangs may keep it waiting for ever; they are small, so once they answer they are read
on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from functools import partial

from uproxy.config.settings import FilesIdentity
from uproxy.errors import IdentityError, UproxyError
from uproxy.identity.file_set import FileSet, read_files, read_trust
from uproxy.identity.source import Clock, SourceBase
from uproxy.offloop import off_loop
from uproxy.tasks import background

_LOG = logging.getLogger(__name__)

_POLL_S = 1.0
_HURRY_S = 0.1  # between looks while files don't fit: a renewer writes them one by one
_HURRIED_LOOKS = 10
_DOUBT_S = 1.0  # how long files that can't be used may be half written
_HANGING_S = 5.0  # how long files may take to answer before a reload goes on without them
_READS = 3  # how often a set is read again that changed while it was read

_Fingerprint = tuple[tuple[int, ...] | None, ...]


class FilesSource(SourceBase):
    """Our SVID, bundles and CRLs from files (`identity.files`)."""

    def __init__(self, settings: FilesIdentity, *, clock: Clock) -> None:
        super().__init__("files", "the identity's files have not been read yet", clock=clock)
        self._settings = settings
        self._wants_jwt = False
        self._seen: _Fingerprint = ()
        self._error: str | None = None  # why the files in place are not in force
        self._in_force: FileSet | None = None  # the last set that was good
        self._reads = 0
        self._discarded = 0
        self._hurried = 0
        self._doubted_since: float | None = None  # when files were first found not to be good
        self._watching: asyncio.Task[None] | None = None  # set between start and stop
        self._looking: asyncio.Task[_Fingerprint] | None = (
            None  # a look at the files that hasn't ended
        )

    async def start(self) -> None:
        """Read the files and begin to watch them; an error becomes the reason in `current`."""
        self.reload()
        self._watching = background(self._watch(), "identity's files")

    async def stop(self) -> None:
        """Stop watching; what is in force stays in `current`."""
        tasks = [task for task in (self._watching, self._looking) if task is not None]
        self._watching = self._looking = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().stop()

    def want_jwt_bundles(self, wanted: bool) -> None:
        """Read the keys of JWT-SVIDs in JWKS bundles too, or not; now, if it has started."""
        changed, self._wants_jwt = wanted is not self._wants_jwt, wanted
        if changed and self._watching is not None:
            self.reload()

    async def reload_if_they_answer(self, hanging_s: float = _HANGING_S) -> None:
        """As `reload`, unless the files' mounts don't answer within `hanging_s` seconds: then what
        is in force stays, and the log says so."""
        try:
            async with asyncio.timeout(hanging_s):
                await self._look()
        except TimeoutError:
            _LOG.warning(
                "%s: the identity's files give no answer in %g s: is their file system there?",
                self._settings.svid, hanging_s,
            )  # fmt: skip
        except UproxyError as error:
            _LOG.warning("%s", error)
        else:
            self.reload()

    def reload(self, settings: FilesIdentity | None = None) -> None:
        """Read the files now, whether or not they seem changed (SIGHUP); from now on those of
        `settings`, if given.  What is not good doesn't replace what is in force."""
        self._settings = settings or self._settings
        before = self._seen
        try:
            files = self._read()
        except IdentityError as error:
            self._discard(str(error), is_new=self._seen != before)
            self._take_trust_alone()
            return
        if self._trusts_fewer(files.problems) and self._may_be_half_written():
            self._discard("; ".join(files.problems), is_new=self._seen != before)
            return
        self._error, self._hurried, self._doubted_since = None, 0, None
        self._take(files)

    def _take_trust_alone(self) -> None:
        """Put new bundles and CRLs in force without a new SVID, whose files can't be used: trust
        can be withdrawn all the same."""
        if self._in_force is None or self._may_be_half_written():
            return
        try:
            trust = read_trust(self._settings, with_jwt=self._wants_jwt)
        except IdentityError as error:
            _LOG.warning("%s", error)
            return
        svid = self._in_force.svid
        self._take(FileSet(svid, trust.bundles, trust.warnings, trust.problems, trust.jwt_bundles))

    def _take(self, files: FileSet) -> None:
        before = self._in_force
        logged = (*before.problems, *before.warnings) if before else ()
        for warning in (*files.problems, *files.warnings):
            if warning not in logged:
                _LOG.warning("%s", warning)
        self._in_force = files
        self._replace(files.svid, "", files.bundles, files.jwt_bundles)

    @property
    def _paths(self) -> tuple[str, ...]:
        settings = self._settings
        return (settings.svid, settings.key, *settings.bundles.values(), *settings.crls)

    def _read(self) -> FileSet:
        """One set, read while nothing changed."""
        self._reads += 1
        for _ in range(_READS):
            # taken before reading, so that a change meanwhile is seen by the next look
            self._seen = _fingerprint(self._paths)
            files = read_files(self._settings, self._clock(), with_jwt=self._wants_jwt)
            if self._seen == _fingerprint(self._paths):
                return files
        raise IdentityError(f"{self._settings.svid}: the identity's files keep changing")

    def _discard(self, error: str, *, is_new: bool) -> None:
        if error != self._error:
            _LOG.warning("%s", error)
        self._error = error
        if is_new:
            self._discarded += 1
            self._hurried = _HURRIED_LOOKS
        if self._in_force is None:
            self._replace(None, error, {})

    def _trusts_fewer(self, problems: tuple[str, ...]) -> bool:
        in_force = self._in_force
        return in_force is not None and not set(problems) <= set(in_force.problems)

    def _may_be_half_written(self) -> bool:
        """Whether to stay with what is in force for a moment: files that don't fit, or can't be
        used, have just been found."""
        now = asyncio.get_running_loop().time()
        if self._doubted_since is None:
            self._doubted_since = now
        return now - self._doubted_since < _DOUBT_S

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_HURRY_S if self._hurried else _POLL_S)
            self._hurried = max(self._hurried - 1, 0)
            try:
                found = await self._look()
            except UproxyError as error:  # no thread to look with
                _LOG.warning("%s", error)
                continue
            # an error may end without a change of the files: by the clock being set right
            if self._error is not None or found != self._seen:
                self.reload()

    async def _look(self) -> _Fingerprint:
        """Return what the files are now, which may take for ever.  One thread looks, whoever waits
        for it.

        Raises:
            UproxyError: no thread can be started.
        """
        if self._looking is None or self._looking.done():
            work = off_loop(partial(_fingerprint, self._paths), "identity's files")
            self._looking = asyncio.create_task(work, name="look at the identity's files")
        return await asyncio.shield(self._looking)

    def _facts(self) -> Mapping[str, object]:
        in_force = self._in_force
        return {
            "files": list(self._paths),
            "last_error": self._error,
            "distrusted": list(in_force.problems) if in_force else [],
            "warnings": list(in_force.warnings) if in_force else [],
            "reads": self._reads,
            "discarded_sets": self._discarded,
            **(self._jwt_facts() if self._wants_jwt else {}),
        }

    def _jwt_facts(self) -> Mapping[str, object]:
        usable = sorted(name for name, each in self.current.jwt_bundles.items() if each.is_usable)
        words = "no bundle is a JWKS with keys for JWT-SVIDs: callers' proofs can't be checked"
        return {"jwt_trust_domains": usable, "jwt_error": None if usable else words}


def _fingerprint(paths: tuple[str, ...]) -> _Fingerprint:
    """What changes when a file, or the target of a link to it, is replaced or rewritten."""
    return tuple(_one_fingerprint(path) for path in paths)


def _one_fingerprint(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # reading it will say why
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
