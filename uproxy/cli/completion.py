"""`uproxy completion`: prints the script with which a shell completes commands and options."""

from __future__ import annotations

import argparse

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads the script")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from uproxy.cli import shells
    from uproxy.cli.command_tree import command_tree

    render = {"bash": shells.bash, "zsh": shells.zsh, "fish": shells.fish}[args.shell]
    print(render(command_tree()), end="")
    return 0
