"""`python -m uproxy`, and the `uproxy` command: what comes before the imports, which take most of
the time until a command runs."""

from __future__ import annotations

import sys

# a part of the interpreter: `signal` takes milliseconds to import, in which signals would kill
from _signal import (  # type: ignore[import-not-found]  # it has no stubs
    SIG_BLOCK,
    SIG_SETMASK,
    pthread_sigmask,
    valid_signals,
)


def main() -> int:
    """Run the command that the process was started with; return its exit code."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), None) == "run":
        blocked = pthread_sigmask(SIG_BLOCK, valid_signals())
        from uproxy import signals

        signals.hold_back()
        pthread_sigmask(SIG_SETMASK, blocked | signals.HANDLED)
    from uproxy import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
