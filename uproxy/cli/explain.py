"""`uproxy explain`: what became of the last attempts of a caller, and the YAML to add."""

from __future__ import annotations

import argparse

from uproxy.cli.dry_run import REFUSED
from uproxy.cli.explanations import between, of_caller
from uproxy.cli.status_answer import Uproxy, parse_address
from uproxy.errors import SpiffeIdError, UsageError
from uproxy.spiffe.ids import SpiffeId


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    parser.add_argument(
        "admins",
        metavar="ADDR",
        nargs="+",
        help="host:port or unix:///path of admin.listen: of caller and called, or of the called",
    )
    parser.add_argument(
        "--as", metavar="SPIFFE_ID", dest="caller", help="the caller, where only one is asked"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is known, newest first; return 0 if nothing was refused, else REFUSED.

    Raises:
        UproxyError: one doesn't answer, or something else than uProxy does.
        UsageError: neither two addresses nor one and a caller.
    """
    uproxies = [Uproxy(parse_address(text, "ADDR")) for text in args.admins]
    if len(uproxies) == 2 and args.caller is None:
        one, other = uproxies
        if one.address == other.address:
            raise UsageError(f"both are {one.address}: give the caller's and the called one's")
        found = between(one.fetch(), other.fetch(), one.rules() | other.rules())
    elif len(uproxies) == 1 and args.caller is not None:
        try:
            caller = str(SpiffeId.parse(args.caller))
        except SpiffeIdError as error:
            raise UsageError(f"--as {args.caller!r}: {error}") from None
        found = of_caller(uproxies[0].fetch(), caller, uproxies[0].rules())
    else:
        raise UsageError(
            "give two addresses, the caller's and the called one's, or the called one's and --as ID"
        )
    print(*found.lines, sep="\n")
    return REFUSED if found.refused else 0
