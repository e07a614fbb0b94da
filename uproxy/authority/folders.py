"""Makes folders that last as long as a command."""

from __future__ import annotations

import tempfile
from pathlib import Path

from uproxy.errors import UproxyError, in_words


def temporary_folder(prefix: str) -> Path:
    """Make a folder with a name of its own that begins with `prefix`, for this user only.

    Raises:
        UproxyError: there is no place for it.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        raise UproxyError(
            f"no temporary folder can be made ({in_words(error)}): set TMPDIR to a folder "
            "that exists, has room, and that this user may write to"
        ) from error
