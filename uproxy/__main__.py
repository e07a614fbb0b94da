"""`python -m uproxy`, and the `uproxy` command: what comes before the imports, which take most of
the time until a command runs."""

from __future__ import annotations

import sys

from uproxy import signals


def main() -> int:
    """Run the command that the process was started with; return its exit code."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), None) == "run":
        signals.hold_back()
    from uproxy import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
