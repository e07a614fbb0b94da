"""The chains that let nobody but the proxy be the proxy, as text for `nft -f`.

Pure.  A redirected connection goes to whoever listens at the proxy's port, and any user may while
the proxy is down.  So who begins a connection to one of its ports is refused unless the socket that
listens there was made in the proxy's cgroup.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from uproxy.capture.nft_words import BEGINNING, chain, filter_chain, in_cgroup, ports
from uproxy.capture.record import Wanted

_REFUSE: Final = "meta l4proto tcp reject with tcp reset"


def guard(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    """Yield the lines of the chains.

    Raises:
        UproxyError: nft can't name a cgroup.
    """
    begins = f"{BEGINNING} tcp dport {ports(wanted.proxy_ports)}"
    # behind the translation of addresses, so that the port is the proxy's already
    yield from filter_chain("reopened", "prerouting", [f"{begins} jump reopen"])
    yield from chain("reopen", _reopen(wanted))
    yield from filter_chain("to_proxy", "input", [f"{begins} jump only_proxy"])
    yield from chain("only_proxy", _only_proxy(wanted, cgroup_root))


def _reopen(wanted: Wanted) -> Iterator[str]:
    """Yield rules for who comes again from the port of a connection that has ended, and that the
    proxy's end remembers (TIME_WAIT): the kernel would find that end, which has no cgroup any
    more.  `tproxy` forgets it, and finds who listens."""
    for port in sorted(wanted.proxy_ports):
        for family in ("ip", "ip6"):
            yield (
                f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'} tcp dport {port} "
                f"tproxy {family} to :{port}"
            )


def _only_proxy(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    proxy = wanted.proxy_cgroup
    if wanted.cgroup.is_relative_to(proxy):
        yield f"{in_cgroup(wanted.cgroup, cgroup_root)} {_REFUSE}"
    if proxy != cgroup_root:  # which has everybody, and which nft can't name
        # a match, not its opposite: that would also be true of cgroups that are less deep
        yield f"{in_cgroup(proxy, cgroup_root)} return"
        yield _REFUSE
