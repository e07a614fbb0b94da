"""The policy route that takes marked packets to loopback.

For each family: a rule that looks marked packets up in a table of ours, which has a default route
of type `local`, and a rule behind it that makes them unreachable where that route is missing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from uproxy.capture.addresses import source_address
from uproxy.capture.netlink import CREATE_EXCLUSIVELY, CREATE_OR_REPLACE, Netlink
from uproxy.capture.rtnetlink import (
    ADD_ROUTE,
    ADD_RULE,
    ALL_BITS,
    DELETE_ROUTE,
    DELETE_RULE,
    FAMILIES,
    LOOK_UP,
    PROTOCOL,
    UNREACHABLE,
    Rule,
    route_message,
    routes,
    rule_message,
    rules,
)
from uproxy.errors import NotPermittedError, UproxyError

_NOBODYS: Final = 0xFFFFFFF0
"""A priority behind those of all rules."""


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """The mark of captured packets, and the routing table that takes them to loopback."""

    mark: int
    table: int
    priority: int
    """The priority of the rule that looks up the table; the rule behind it has the next number."""


def check_unused(wanted: PolicyRoute) -> None:
    """Make sure that nobody else uses the mark or the table in this namespace.

    Raises:
        UproxyError: somebody does.
    """
    with Netlink() as netlink:
        for family in FAMILIES:
            for rule in rules(netlink, family):
                if rule.protocol != PROTOCOL and matches(rule, wanted.mark):
                    raise UproxyError(
                        f"--mark {wanted.mark:#x}: an ip rule of somebody else's (priority "
                        f"{rule.priority}) is for it: choose another"
                    )
            for route in routes(netlink, family):
                if route.table == wanted.table and route.protocol != PROTOCOL:
                    raise UproxyError(
                        f"--table {wanted.table}: has a route of somebody else's "
                        f"({route.network}): choose another"
                    )


def check_permitted(wanted: PolicyRoute) -> None:
    """Make sure that we may make rules and routes in this namespace, by a change that does nothing:
    there is no such rule.

    Raises:
        NotPermittedError: we may not.
    """
    body = _rule(socket.AF_INET, wanted, _NOBODYS, LOOK_UP)
    try:
        with Netlink() as netlink, contextlib.suppress(FileNotFoundError):
            netlink.change(DELETE_RULE, body)
    except PermissionError:
        raise NotPermittedError(
            "ip rules and routes need CAP_NET_ADMIN in the network namespace"
        ) from None


def matches(rule: Rule, mark: int) -> bool:
    """Whether a rule is for packets with that mark."""
    return bool(rule.mask) and mark & rule.mask == rule.mark & rule.mask


def add(wanted: PolicyRoute) -> None:
    """Add rules and routes of both families to this namespace, or bring them up to date.

    Raises:
        UproxyError: lo is down.
        OSError: the kernel's refusal.
    """
    with Netlink() as netlink:
        for family in FAMILIES:
            source = source_address(family)
            if source is not None:
                _add_route(netlink, family, wanted.table, source)
            # first the one that refuses: what is marked never finds none of the two
            for priority, action in _actions(wanted):
                body = _rule(family, wanted, priority, action)
                with contextlib.suppress(FileExistsError), _family_may_be_absent(family):
                    netlink.change(ADD_RULE, body, CREATE_EXCLUSIVELY)


def remove(wanted: PolicyRoute) -> None:
    """Remove what `add` made from this namespace, as far as it is there."""
    with Netlink() as netlink:
        for family in FAMILIES:
            for priority, action in reversed(_actions(wanted)):
                with contextlib.suppress(FileNotFoundError), _family_may_be_absent(family):
                    netlink.change(DELETE_RULE, _rule(family, wanted, priority, action))
            with contextlib.suppress(ProcessLookupError), _family_may_be_absent(family):
                while True:
                    netlink.change(DELETE_ROUTE, route_message(family, wanted.table, None))


def missing(wanted: PolicyRoute) -> list[str]:
    """Return what of that which `add` makes is missing in this namespace, in words."""
    lacking = []
    with Netlink() as netlink:
        for family in FAMILIES:
            word = "IPv4" if family == socket.AF_INET else "IPv6"
            if family == socket.AF_INET6 and not socket.has_ipv6:
                continue
            there = {rule.priority for rule in rules(netlink, family) if rule.protocol == PROTOCOL}
            if not {priority for priority, _ in _actions(wanted)} <= there:
                lacking.append(f"the {word} rules for mark {wanted.mark:#x} are gone")
            source = source_address(family)
            sources = [r.source for r in routes(netlink, family) if r.table == wanted.table]
            if source is not None and source not in sources:
                lacking.append(f"the {word} route in table {wanted.table} isn't as it should be")
    return lacking


def _actions(wanted: PolicyRoute) -> list[tuple[int, int]]:
    return [(wanted.priority + 1, UNREACHABLE), (wanted.priority, LOOK_UP)]


def _add_route(netlink: Netlink, family: int, table: int, source: bytes) -> None:
    try:
        # one that is there may name an address that has gone: the kernel leaves it there
        netlink.change(ADD_ROUTE, route_message(family, table, source), CREATE_OR_REPLACE)
    except OSError as error:
        if error.errno != errno.ENETDOWN:
            raise
        raise UproxyError("lo is down in the network namespace: ip link set lo up") from None


@contextlib.contextmanager
def _family_may_be_absent(family: int) -> Iterator[None]:
    """Ignore the errors with which a kernel without IPv6 refuses rules and routes for it."""
    try:
        yield
    except OSError as error:
        if family != socket.AF_INET6 or error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def _rule(family: int, wanted: PolicyRoute, priority: int, action: int) -> bytes:
    table = wanted.table if action == LOOK_UP else 0
    return rule_message(Rule(family, priority, wanted.mark, ALL_BITS, table, PROTOCOL), action)
