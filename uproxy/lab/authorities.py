"""`uproxy authority` as a child process, with a file that can be changed while it runs."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from uproxy.lab.processes import Process


def entry(spiffe_id: str, **fields: Any) -> dict[str, Any]:
    """Return an entry for this user's processes, unless `fields` select other processes."""
    selected = {"uid", "gid", "path"} & fields.keys()
    return {"spiffe_id": spiffe_id, **fields, **({} if selected else {"uid": "starter"})}


class DevAuthority(Process):
    """`uproxy authority`, whose file has these `trust_domains`."""

    def __init__(self, folder: Path, trust_domains: Mapping[str, Any]) -> None:
        # pytest's own folders are too long for a socket's path
        self._sockets = Path(tempfile.mkdtemp(prefix="authority-"))
        self._file = folder / "authority.yaml"
        self.define(trust_domains)
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "uproxy",
            "authority",
            "--config",
            self._file,
        ]
        super().__init__(argv, folder / "authority.log")

    def define(self, trust_domains: Mapping[str, Any]) -> None:
        """Replace the file, atomically; a running authority reads it."""
        whole = {"sockets": str(self._sockets), "trust_domains": dict(trust_domains)}
        fresh = self._file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(whole))
        fresh.replace(self._file)

    def is_ready(self) -> bool:
        """Return whether all endpoints have been printed."""
        return len(self.endpoints) == len(yaml.safe_load(self._file.read_text())["trust_domains"])

    @property
    def endpoints(self) -> dict[str, str]:
        """Trust domain to endpoint, as last printed."""
        pairs = [line.split() for line in self.output.splitlines() if "  unix:///" in line]
        return {name: address for name, address in pairs}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        super().__exit__(*why)
        shutil.rmtree(self._sockets, ignore_errors=True)
