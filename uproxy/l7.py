"""Which candidates a destination has that is reached via an L7 proxy.

It dials nothing: applications and the proxy's addresses are handed in, best first, candidates
handed out.  Rules: the best application is tried through several addresses of the proxy, then the
other applications through the best of these; past the proxy, last, only where the configuration
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from uproxy.contract import Candidate, Upstream

MAX_ENDS_TRIED: Final = 3
"""Addresses of an L7 proxy at which a connection is tried: each may take `timeouts.connect` twice
and `timeouts.handshake`, and who waits should know in time."""


def by_way_of(
    applications: Sequence[Candidate], ends: Sequence[Upstream], past: Upstream | None
) -> tuple[Candidate, ...]:
    """Return the candidates, best first.

    Args:
        applications: the destination's own candidates, best first.
        ends: how each address of the L7 proxy is used, best first.
        past: how the destination is reached past the L7 proxy; None: it isn't.
    """
    first, *others = _one_address_each(applications)
    made = [replace(first, upstream=end) for end in ends[:MAX_ENDS_TRIED]]
    made += [replace(each, upstream=end) for end in ends[:1] for each in others]
    # an L7 proxy is shown no server name, which is the destination's
    made = [replace(each, server_name=None) for each in made]
    if past is not None:
        made += [replace(each, upstream=past) for each in applications]
    return tuple(made)


def _one_address_each(applications: Sequence[Candidate]) -> list[Candidate]:
    """Return each address once: none race, because a CONNECT names one."""
    known = {address: each for each in applications for address in each.addresses}
    return [replace(each, addresses=(address,)) for address, each in known.items()]
