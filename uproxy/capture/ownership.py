"""Who may write where captures are written down: nobody but root, or us."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from uproxy.errors import UproxyError

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_ours(path: Path) -> None:
    """Look at a file or folder, as far as there is one, and at all folders above it.

    A record says what root is to put back, so whoever could have written one must be root.

    Raises:
        UproxyError: somebody else owns one of them, or may write to it.  In a folder with the
            sticky bit, such as /tmp, others may write, because they can't replace what is ours.
    """
    whole = path.resolve()
    for each in (whole, *whole.parents):
        try:
            found = each.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if found.st_uid not in (0, os.geteuid()):
            raise UproxyError(_refusal(path, each, f"belongs to user {found.st_uid}"))
        if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
            raise UproxyError(_refusal(path, each, f"has mode {stat.S_IMODE(found.st_mode):04o}"))


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder, and those above it that are missing, so that `check_ours` accepts them: no
    umask lets others write there.

    Raises:
        OSError: it can't be made.
    """
    for above in reversed(folder.parents):
        above.mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(mode=mode, exist_ok=True)


def _refusal(path: Path, each: Path, why: str) -> str:
    return (
        f"{path}: not trusted, because {each} {why}: only root may write there, since captures are "
        "undone by what is written there; give programs folders of their own below /run/uproxy"
    )
