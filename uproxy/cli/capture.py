"""`uproxy capture`: brings a workload's connections to its uProxy, by eBPF or nft.

The only command that needs privileges.  It ends at once, and what it made stays; only `follow`
runs as long as the capture does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
from collections.abc import Set
from pathlib import Path
from typing import Final

from uproxy.capture import control
from uproxy.capture.condition import Condition
from uproxy.capture.policy import parse_policy
from uproxy.capture.record import Mode
from uproxy.capture.rehearsal import Flaw
from uproxy.cli.capture_text import as_json, as_text
from uproxy.errors import UsageError

NOT_AS_ATTACHED: Final = 5
"""The exit code of `status` when a capture is stale or half made."""

_ACTIONS: Final = ("attach", "detach", "status", "follow")
_OF_ALL: Final = {"action", "command", "log_level", "cgroup", "name"}
_OF_DETACH: Final = _OF_ALL | {"drain", "bpffs"}
_OF_STATUS: Final = _OF_ALL | {"json", "bpffs"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `capture`."""
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    add = parser.add_argument
    add("--cgroup", metavar="PATH", help="the workload's cgroup, of version 2")
    add("--netns", metavar="NS", help="its network namespace: path, name or process id")
    add(
        "--proxy-cgroup",
        metavar="PATH",
        help="the proxy's cgroup (default: --cgroup's parent, without --cgroup)",
    )
    add(
        "--mode",
        choices=(control.AUTO, *Mode),
        default=control.AUTO,
        help="how; auto chooses, and says why",
    )
    add(
        "--include",
        metavar="CIDR|PORT",
        action="append",
        default=[],
        help="capture only these destinations; may be repeated, or a list with commas",
    )
    add(
        "--exclude",
        metavar="CIDR|PORT",
        action="append",
        default=[],
        help="leave these destinations alone; the longest prefix decides",
    )
    add(
        "--inbound",
        metavar="PORT|all",
        action="append",
        default=[],
        help="capture what arrives at these ports (default: none)",
    )
    add(
        "--exclude-inbound",
        metavar="PORT",
        action="append",
        default=[],
        help="leave what arrives at these ports alone",
    )
    add("--outbound-port", metavar="PORT", type=int, default=15001, help=_PORT.format(15001, "out"))
    add("--inbound-port", metavar="PORT", type=int, default=15006, help=_PORT.format(15006, "in"))
    add("--fail-open", action="store_true", help="without the proxy let connections pass, in clear")
    add(
        "--short-circuit",
        metavar="FLAW,…",
        nargs="?",
        const=(),
        type=_flaws,
        help="what the workload sends skips TCP on its way to the proxy; despite these flaws of "
        f"the kernel ({', '.join(Flaw)})",
    )
    add("--name", metavar="NAME", help="of this capture (default: from --cgroup)")
    add(
        "--mark",
        metavar="N",
        type=_number,
        default=control.DEFAULT_MARK,
        help=f"of captured sockets (default {control.DEFAULT_MARK:#x})",
    )
    add(
        "--table",
        metavar="N",
        type=_number,
        default=control.DEFAULT_TABLE,
        help=f"the routing table for them (default {control.DEFAULT_TABLE})",
    )
    add(
        "--bpffs",
        metavar="PATH",
        type=Path,
        default=control.DEFAULT_BPFFS,
        help=f"where the programs are kept (default {control.DEFAULT_BPFFS})",
    )
    add(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        default=_DRAIN_S,
        help=f"detach: for captured connections, which are reset then (default {_DRAIN_S:g})",
    )
    add("--json", action="store_true", help="status as JSON, for programs")


_PORT = "where the proxy listens for what goes {1} (default {0})"


_DRAIN_S: Final = 5.0


def _seconds(text: str) -> float:
    """Return a number of seconds, 0 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")


def _flaws(text: str) -> tuple[str, ...]:
    """Return flaws of the kernel, by their words.

    Raises:
        ArgumentTypeError: there is no such flaw.
    """
    found = tuple(text.split(","))
    for each in found:
        if each not in set(Flaw):
            raise argparse.ArgumentTypeError(f"{each!r} is no flaw; there are {', '.join(Flaw)}")
    return found


def _number(text: str) -> int:
    """Return a number above 0 that fits into 32 bits, in any of Python's notations.

    Raises:
        ArgumentTypeError: it is none.
    """
    with contextlib.suppress(ValueError):
        if 0 < (number := int(text, 0)) < 1 << 32:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {(1 << 32) - 1:#x}")


def run(args: argparse.Namespace) -> int:
    """Attach, detach or show; return the exit code.

    Raises:
        UsageError: an option is missing, or one is there that the action doesn't take.
        UproxyError: the kernel, or what is there, doesn't allow it.
    """
    actions = {"attach": _attach, "detach": _detach, "status": _status, "follow": _follow}
    return actions[args.action](args)


def _attach(args: argparse.Namespace) -> int:
    _refuse_others(args, vars(args).keys() - {"drain", "json"})
    for option in ("cgroup", "netns"):
        if getattr(args, option) is None:
            raise UsageError(f"capture attach needs --{option}")
    policy = parse_policy(args.include, args.exclude, args.inbound, args.exclude_inbound)
    request = control.Request(
        cgroup=args.cgroup,
        netns=args.netns,
        policy=policy,
        proxy_cgroup=args.proxy_cgroup,
        name=args.name,
        mode=args.mode,
        outbound_port=_port("--outbound-port", args.outbound_port),
        inbound_port=_port("--inbound-port", args.inbound_port),
        fail_open=args.fail_open,
        mark=args.mark,
        table=args.table,
        bpffs=args.bpffs,
        short_circuit=args.short_circuit,
    )
    done = control.attach(request)
    why = f" ({done.why})" if done.why else ""
    print(f"capture {done.name} is attached, mode {done.mode}{why}")
    for reason in done.reasons:
        print(f"uproxy: warning: {reason}", file=sys.stderr)
    return 0


def _detach(args: argparse.Namespace) -> int:
    _refuse_others(args, _OF_DETACH)
    if args.name is None and args.cgroup is None:
        raise UsageError("capture detach needs --name or --cgroup; capture status has the names")
    name = args.name or control.name_of(args.cgroup)
    control.detach(name, args.drain, bpffs=args.bpffs)
    print(f"capture {name} is detached")
    return 0


def _status(args: argparse.Namespace) -> int:
    _refuse_others(args, _OF_STATUS)
    name = args.name or (args.cgroup and control.name_of(args.cgroup))
    found = control.look(name, bpffs=args.bpffs)
    if args.json:
        print(json.dumps([as_json(each) for each in found], indent=2))
    else:
        print("\n".join(map(as_text, found)) or "nothing is captured here")
    is_good = all(isinstance(each, Condition) and each.is_good for each in found)
    return 0 if is_good else NOT_AS_ATTACHED


def _follow(args: argparse.Namespace) -> int:
    _refuse_others(args, _OF_ALL)
    name = args.name or (args.cgroup and control.name_of(args.cgroup))
    if name is None:
        raise UsageError("capture follow needs --name or --cgroup; capture status has the names")
    # a refresh that is cut in two is made whole by the next one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control.follow(name)
    return 0


def _refuse_others(args: argparse.Namespace, known: Set[str]) -> None:
    """Refuse options that the action has no use for, rather than ignore them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, value in vars(args).items():
        if name not in known and value != parser.get_default(name):
            raise UsageError(f"capture {args.action} has no --{name.replace('_', '-')}")


def _port(option: str, port: int) -> int:
    if not 1 <= port <= 65535:
        raise UsageError(f"{option} {port}: ports are 1 to 65535")
    return port
