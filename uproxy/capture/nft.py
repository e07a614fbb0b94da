"""Capture by nftables: a table in the network namespace redirects the workload's connections.

The kernel makes, replaces and deletes a table in one step, so there is nothing half made.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from uproxy.capture import conntrack, draining, record, sockdiag
from uproxy.capture.connection import Connection
from uproxy.capture.layout import Stat
from uproxy.capture.netlink import NETFILTER, Netlink, read_attributes
from uproxy.capture.nft_rules import PREFIX, ending, ruleset, table_name
from uproxy.capture.places import cgroup_root, follow_namespace, inside, living
from uproxy.capture.record import LONGEST_NAME, Record, Wanted
from uproxy.errors import NotPermittedError, UproxyError

_STATS: Final = {"captured": Stat.CAPTURED, "inbound": Stat.INBOUND}
_GET_TABLE, _NAME, _INET = 10 << 8 | 1, 1, 1
"""NFNL_SUBSYS_NFTABLES and NFT_MSG_GETTABLE, NFTA_TABLE_NAME, NFPROTO_INET."""
_NO_NFT: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""What a kernel without nftables answers."""
_OURS: Final = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{1,{LONGEST_NAME}}})")
_NO_PERMISSION: Final = "Operation not permitted"


def check(wanted: Wanted) -> None:
    """Make sure that nft and the kernel take the table, without making it.

    Raises:
        NotPermittedError: a privilege is missing.
        UproxyError: nft isn't there, or the kernel can't do it.
    """
    with inside(living(wanted.namespace)):
        _nft("--check", "--file", "-", rules=ruleset(wanted, cgroup_root()))


def attach(folder: Path, wanted: Wanted) -> None:
    """Make the table, or replace it.

    Raises:
        UproxyError: it can't be made; nothing was changed.
    """
    check(wanted)
    root = cgroup_root()
    earlier = record.load(folder, wanted.name)
    if earlier is not None:
        _check_same(earlier.wanted, wanted)
    made = Record(wanted, programs=digest(ruleset(wanted, root)))
    with inside(living(wanted.namespace)):
        with record.replaced(folder, made):
            older = _left_alone(wanted) if exists(wanted) else sockdiag.connections()
            _nft("--file", "-", rules=ruleset(wanted, root, older))
        # the table is there: from here on its record stays, whatever happens
        record.save(folder, replace(made, listing=listing(wanted)))


def _check_same(earlier: Wanted, wanted: Wanted) -> None:
    """Refuse to leave a table behind in another network namespace."""
    if not earlier.namespace.is_same(wanted.namespace) and follow_namespace(earlier.namespace):
        raise UproxyError(
            f"capture {wanted.name} is attached with another --netns: detach it first"
        )


def detach(folder: Path, made: Record, drain_s: float) -> None:
    """Stop capturing, end the captured connections as `end` does, and delete the table, if it is
    there.

    Raises:
        UproxyError: captured connections are open, and this kernel can't reset them.
    """
    namespace = follow_namespace(made.wanted.namespace)
    if namespace is not None:
        with inside(namespace):
            if exists(made.wanted):
                end(made.wanted.name, drain_s, made.wanted.proxy_ports)
    record.forget(folder, made.wanted.name)


def end(name: str, drain_s: float, ports: Collection[int] = ()) -> None:
    """Delete the table of a capture from this network namespace.

    What it captured has `drain_s` seconds to end and is reset then: without the table nothing
    translates its addresses, and it would go on, in clear, to where the workload meant it to go.
    `ports` are the proxy's; those that the table names are looked at too.

    Raises:
        UproxyError: captured connections are open, and this kernel can't reset them.
    """
    theirs = {*ports, *_redirected_to(name)}
    for other in set(captures()) - {name}:
        # it is their proxy too, and their table goes on translating
        theirs -= set(_redirected_to(other))
    _nft("--file", "-", rules=ending(table_name(name)))
    draining.end(partial(sockdiag.accepted_at, theirs), drain_s)
    conntrack.forget_redirected(theirs)
    _nft("delete", "table", "inet", table_name(name))


def _redirected_to(name: str) -> Iterator[int]:
    """Yield the ports to which a table in this network namespace redirects."""
    listed = json.loads(_nft("--json", "list", "table", "inet", table_name(name)))
    for each in listed["nftables"]:
        for statement in each.get("rule", {}).get("expr", ()):
            redirect = statement.get("redirect")
            if redirect and isinstance(redirect.get("port"), int):
                yield redirect["port"]


def exists(wanted: Wanted) -> bool:
    """Whether the table is in this network namespace."""
    return wanted.name in captures()


def captures() -> list[str]:
    """Return the names of the captures that have a table in this network namespace.

    Raises:
        NotPermittedError: we may not look.
    """
    try:
        with Netlink(NETFILTER) as netlink:
            dumped = list(netlink.dump(_GET_TABLE, bytes([_INET, 0, 0, 0])))
    except PermissionError:
        raise NotPermittedError("nft: CAP_NET_ADMIN needed") from None
    except OSError as error:
        if error.errno in _NO_NFT:
            return []
        raise
    names = (read_attributes(each[4:])[_NAME].rstrip(b"\0") for each in dumped)
    # anybody may have a network namespace, and call a table there whatever they like
    found = (_OURS.fullmatch(name.decode(errors="replace")) for name in names)
    return [each[1] for each in found if each]


def _left_alone(wanted: Wanted) -> set[Connection]:
    """Return the connections that were open when the table was made."""
    listed = json.loads(_nft("--json", "list", "table", "inet", table_name(wanted.name)))
    sets = (each["set"] for each in listed["nftables"] if "set" in each)
    found = (each["concat"] for one in sets for each in one.get("elem", ()))
    return {
        Connection(ip_address(local), local_port, ip_address(remote), remote_port)
        for local, local_port, remote, remote_port in found
    }


def listing(wanted: Wanted) -> str:
    """Return what tells the table in this network namespace from one that was changed."""
    return digest(_nft("--stateless", "list", "table", "inet", table_name(wanted.name)))


def stats(wanted: Wanted) -> dict[Stat, int]:
    """Return how many connections the table in this network namespace has counted."""
    listed = json.loads(
        _nft("--json", "list", "counters", "table", "inet", table_name(wanted.name))
    )
    counters = (each["counter"] for each in listed["nftables"] if "counter" in each)
    return {_STATS[each["name"]]: int(each["packets"]) for each in counters}


def digest(rules: str) -> str:
    """Return a digest of an nft ruleset, 16 hexadecimal digits."""
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


def _nft(*words: str, rules: str | None = None) -> str:
    """Run nft in this network namespace; return what it printed."""
    try:
        done = subprocess.run(  # noqa: S603  our own words, no shell
            ["nft", *words],  # noqa: S607  where the distribution has put it
            input=rules,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise UproxyError("--mode nft needs the program nft: install nftables") from None
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
    if _NO_PERMISSION in done.stderr:
        raise NotPermittedError(f"nft: CAP_NET_ADMIN needed ({said})")
    raise UproxyError(
        f"nft refuses: {said}: capture needs nftables 0.9.9 and Linux 5.13 with nft_socket, "
        "nft_redir, nft_reject, nft_tproxy and nft_fib"
    )
