"""Reads the configuration file with its overrides, at start and at each reload."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uproxy.config import Settings, load
from uproxy.errors import NotPermittedError, UsageError


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """The path of the file, and the overrides applied to it."""

    path: Path
    overrides: tuple[str, ...]
    """The values of `--set`, as written."""
    environ: Mapping[str, str]
    """The environment variables, for `UPROXY__…` overrides and `${NAME}`."""

    def read(self) -> Settings:
        """Read and validate the whole configuration.

        Raises:
            ConfigError: every mistake in it.
            UsageError: there is no such file.
            NotPermittedError: it may not be read.
        """
        folder = str(self.path.parent.absolute())
        return load(self._text(), environ=self.environ, overrides=self.overrides, folder=folder)

    def fingerprint(self) -> tuple[int, ...]:
        """Return a value that changes whenever the file does, also by a symbolic link that is
        replaced, as a Kubernetes ConfigMap does."""
        try:
            facts = os.stat(self.path)
        except OSError as error:
            return (error.errno or 0,)
        return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size

    def _text(self) -> str:
        try:
            # `load` reports a byte that isn't UTF-8, with its line and column
            return self.path.read_text(encoding="utf-8", errors="surrogateescape")
        except PermissionError:
            raise NotPermittedError(
                f"{self.path} can't be read: give this user read permission"
            ) from None
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise UsageError(f"--config {self.path} can't be read: {reason}") from None
