"""`uproxy check`: checks a configuration as far as possible without starting the proxy."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

from uproxy import libssl, sockets
from uproxy.app.budget import budget_of
from uproxy.app.configuration import STANDARD_INPUT, ConfigurationFile
from uproxy.app.identity import check_files, make_source, now
from uproxy.app.reading import read_text
from uproxy.cli import report
from uproxy.cli.dry_run import REFUSED, Question, Trust, answer
from uproxy.cli.parsing import add_configuration_arguments
from uproxy.config import Settings, warnings
from uproxy.config.environment import misnamed
from uproxy.config.rule_advice import trust_warnings
from uproxy.config.scalars import duration
from uproxy.errors import ConfigError, UproxyError, UsageError
from uproxy.identity.credentials import Credentials
from uproxy.identity.file_set import read_files
from uproxy.model import Mistake, UnixAddress
from uproxy.spiffe.ids import SpiffeId


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    parser.add_argument("files", metavar="FILE", nargs="*", help="YAML or JSON; -: standard input")
    add_configuration_arguments(parser, required=False)
    parser.add_argument(
        "--wait",
        metavar="DURATION",
        default=None,
        help="also fetch an identity, waiting at most this long (10s); exit 4 if none comes",
    )
    dry = parser.add_argument_group("what the rules would decide; exit 6 if they refuse")
    dry.add_argument("--as", metavar="SPIFFE_ID", dest="caller", help="who calls")
    dry.add_argument("--to", metavar="DOOR[:PORT]", help="the inbound door that is called")
    dry.add_argument("--via", metavar="NAME", help="the L7 proxy, of inbound_trust, in between")
    dry.add_argument("--from", metavar="IP", dest="source", help="where the caller comes from")


def run(args: argparse.Namespace) -> int:
    """Print every mistake of every file, or that it is good; return the exit code of the first
    that isn't.  Warnings don't change it."""
    wait = None if args.wait is None else _duration(args.wait)
    names = [*args.files] if args.config is None else [args.config, *args.files]
    if not names:
        raise UsageError("which file? uproxy check FILE, or - for standard input")
    question = _question(args, len(names))
    libssl.check()
    if len(names) == 1:
        return _check(names[0], args.overrides, wait, question)
    codes = [_code(name, args.overrides, wait) for name in names]
    return next((code for code in codes if code), 0)


def _question(args: argparse.Namespace, files: int) -> Question | None:
    """Return what the rules are to be asked; None: nothing."""
    if args.caller is None and args.to is None:
        if args.source is not None:
            raise UsageError("--from says where a caller comes from: say who, with --as and --to")
        if args.via is not None:
            raise UsageError("--via says how a caller comes: say who, with --as and --to")
        return None
    if args.caller is None or args.to is None:
        raise UsageError("--as and --to belong together: who calls, and at which door")
    if files > 1:
        raise UsageError("--as asks the rules of one file")
    return Question(args.caller, args.to, args.source, args.via)


def _code(name: str, overrides: Sequence[str], wait: float | None) -> int:
    """Check one of several files; return its exit code."""
    try:
        return _check(name, overrides, wait)
    except UproxyError as error:
        return report(error)


def _check(
    name: str, overrides: Sequence[str], wait: float | None, question: Question | None = None
) -> int:
    """Check one file; print its warnings, and that it is good, or what its rules answer to
    `question`; return the exit code.

    Raises:
        UproxyError: it isn't, or there is no identity.
    """
    path = Path(STANDARD_INPUT if name == "-" else name)
    file = ConfigurationFile(path, tuple(overrides), os.environ)
    text = read_text(path)
    settings = file.parse(text)
    _warn(misnamed(os.environ, text))
    _warn(file.locate(text, warnings(settings)))
    _check_on_this_machine(file, text, settings)
    credentials = None
    if wait is not None:
        credentials = _fetched(settings, wait)
        print(_identity(credentials))
        _warn(file.locate(text, _untrusted(settings, credentials)))
    if question is None:
        print(f"{file.name}: {_summary(settings)}")
        return 0
    found = answer(settings, _trust(settings, credentials), question)
    print(*found.lines, sep="\n")
    return 0 if found.allowed else REFUSED


def _warn(notes: Iterable[Mistake]) -> None:
    for note in notes:
        print(note.labelled("warning"), file=sys.stderr)


def _check_on_this_machine(file: ConfigurationFile, text: str, settings: Settings) -> None:
    """Check the files, owners and limits that the settings name; raise ConfigError if they can't
    be had here."""
    try:
        notes = [Mistake("identity.files", note) for note in check_files(settings.identity)]
        _warn(file.locate(text, notes))
        _check_owners(settings)
    except ConfigError as error:
        raise ConfigError(file.locate(text, error.mistakes)) from error
    _check_limits(settings)


def _fetched(settings: Settings, wait: float) -> Credentials:
    """Return an identity that comes within `wait` seconds."""
    # the error, if there is one, says what the source would log
    logging.getLogger("uproxy").addHandler(logging.NullHandler())
    return asyncio.run(_fetch(settings, wait))


def _untrusted(settings: Settings, credentials: Credentials) -> Sequence[Mistake]:
    """Return warnings of trust domains without a bundle; those of files are known without it."""
    if settings.identity.files is not None:
        return ()
    trusted = [name for name, bundle in credentials.bundles.items() if bundle.roots]
    return tuple(trust_warnings(settings, trusted))


def _trust(settings: Settings, credentials: Credentials | None) -> Trust:
    """Return what is known of certificates: by `--wait`, from files, or by what is configured."""
    identity = settings.identity
    if credentials is not None and credentials.svid is not None:
        return Trust(_domain(credentials.svid.spiffe_id), credentials.bundles)
    if identity.files is not None:
        files = read_files(identity.files, now())
        return Trust(_domain(files.svid.spiffe_id), files.bundles)
    return Trust(None if identity.spiffe_id is None else _domain(identity.spiffe_id), None)


def _domain(spiffe_id: str) -> str:
    return SpiffeId.parse(spiffe_id).trust_domain.name


def _duration(text: str) -> float:
    """Parse the duration of `--wait` into seconds."""
    try:
        return duration(text)
    except ValueError as error:
        raise UsageError(f"--wait {text!r}: {error}") from None


def _check_owners(settings: Settings) -> None:
    """Refuse an `owner` that doesn't exist on this machine."""
    admin = settings.admin
    owned = [
        *((f"inbound[{n}]", door.listen, door.owner) for n, door in enumerate(settings.inbound)),
        *((f"outbound[{n}]", door.listen, door.owner) for n, door in enumerate(settings.outbound)),
        *(("admin", listen, admin.owner) for listen in (admin.listen, admin.metrics, admin.ready)),
    ]
    for path, listen, owner in owned:
        if owner is not None and isinstance(listen, UnixAddress):
            try:
                sockets.owner_ids(Path(listen.path), owner)
            except UproxyError as error:
                raise ConfigError((Mistake(f"{path}.owner", str(error)),)) from error


def _check_limits(settings: Settings) -> None:
    """Warn if `limits.connections` doesn't fit into this machine's descriptor limit."""
    budget = budget_of(settings)
    if budget.note:
        print(f"uproxy: warning: {budget.note}", file=sys.stderr)


async def _fetch(settings: Settings, wait: float) -> Credentials:
    from uproxy.identity.workload_api.source import fetch_once

    return await fetch_once(make_source(settings.identity), wait)


def _identity(credentials: Credentials) -> str:
    """Return a line about our identity."""
    svid = credentials.svid
    if svid is None:
        raise UproxyError(credentials.reason)
    domains = ", ".join(sorted(credentials.bundles))
    return f"identity {svid.spiffe_id} until {svid.not_after.isoformat()}, trusts {domains}"


def _summary(settings: Settings) -> str:
    """Return how many doors, destinations and rules there are."""
    counted = (
        _counted(settings.destinations, "destination"),
        _counted(settings.authorization, "rule"),
    )
    doors = f"{len(settings.inbound)} inbound, {len(settings.outbound)} outbound"
    return ", ".join((f"good: {doors}", *counted))


def _counted(things: Sized, word: str) -> str:
    """Return how many there are, in words: `1 rule`, `2 rules`."""
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
