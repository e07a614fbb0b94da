"""An identity as files: an SVID, its key, and the roots it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uproxy.lab.pki import Issued


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """The paths of an SVID, its key and the trusted bundle, all in PEM."""

    svid: Path
    """Leaf first, then intermediates."""
    key: Path
    bundle: Path


def write_identity(folder: Path, issued: Issued, bundle: bytes) -> IdentityFiles:
    """Write an identity into `folder`; `bundle` has the trusted roots in PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    files = IdentityFiles(folder / "svid.pem", folder / "svid.key", folder / "bundle.pem")
    files.svid.write_bytes(issued.pem)
    files.key.touch(mode=0o600)
    files.key.write_bytes(issued.key_pem)
    files.bundle.write_bytes(bundle)
    return files
