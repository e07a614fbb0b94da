"""The names in a bpffs that keep programs and maps in the kernel when no process has them open.

`BPFFS/uproxy/NAME/link_*` are the attached programs, `…/map_*` the maps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from uproxy.capture import bpf
from uproxy.capture.ownership import make_folder
from uproxy.capture.places import mount_of
from uproxy.errors import NotPermittedError, UproxyError

LINK, MAP = "link_", "map_"
_DRAFT = "-draft"
"""The suffix of a pin that is about to be renamed over another one."""


class Pins:
    """The pins of one capture."""

    def __init__(self, bpffs: Path, name: str) -> None:
        self.bpffs = bpffs
        """The bpffs that they are in, as this process sees it."""
        self._all = bpffs / "uproxy"
        self.folder = self._all / name
        """Where they are."""

    def exist(self) -> bool:
        """Whether there is anything."""
        return self.folder.is_dir()

    def names(self) -> list[str]:
        """Return the names of all pins."""
        return sorted(path.name for path in self.folder.iterdir())

    def create(self) -> None:
        """Make the folder for the pins.

        Raises:
            NotPermittedError: we may not.
        """
        try:
            make_folder(self.folder, mode=0o700)
        except PermissionError:
            raise NotPermittedError(f"{self.folder}: must be root to write there") from None

    def put(self, name: str, descriptor: int) -> None:
        """Pin something, in place of what has this name, if anything has."""
        draft = self.folder / f"{name}{_DRAFT}"
        draft.unlink(missing_ok=True)
        bpf.pin(descriptor, str(draft))
        draft.rename(self.folder / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[int | None]:
        """Yield a descriptor of what is pinned under a name, closed afterwards; None: nothing
        is."""
        try:
            descriptor = bpf.get_pinned(str(self.folder / name))
        except FileNotFoundError:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Unpin one: a link that nothing else holds ends with it."""
        (self.folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Unpin everything that is left, and remove the folders."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()
        with contextlib.suppress(OSError):  # another capture's pins are there, or it never was
            self._all.rmdir()


def pinned(bpffs: Path) -> list[Path]:
    """Return the folder of each capture that has pins in a bpffs.

    Raises:
        NotPermittedError: we may not look.
    """
    try:
        return sorted((bpffs / "uproxy").iterdir())
    except FileNotFoundError:
        return []
    except PermissionError:
        raise NotPermittedError(f"{bpffs}: must be root to see what is attached") from None


def check_bpffs(path: Path) -> None:
    """Make sure that a bpffs is mounted there.

    Raises:
        UproxyError: none is.
    """
    if not path.is_dir() or mount_of(path).kind != "bpf":
        raise UproxyError(f"no bpffs at {path}: mount -t bpf bpf {path}")
