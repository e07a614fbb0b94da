"""How many connections fit into the descriptors that this process may have."""

from __future__ import annotations

from uproxy import descriptors
from uproxy.app.administration import Administration
from uproxy.app.engines import MOST_WORKERS
from uproxy.config import Settings
from uproxy.descriptors import Budget
from uproxy.lookups import MOST_THREADS
from uproxy.snapshot import names_in


def budget_of(settings: Settings) -> Budget:
    """Raise the limit of descriptors as far as possible; return how many connections fit then.

    Raises:
        UproxyError: not even one connection fits.
    """
    reserved = descriptors.reserved_for(
        doors=len(settings.inbound) + len(settings.outbound),
        threads=(settings.workers or MOST_WORKERS) + 1,
        admin=Administration.descriptors(settings.admin),
        lookups=min(len(names_in(settings)), MOST_THREADS),
    )
    return descriptors.budget_for(settings.limits.connections, descriptors.raise_limit(), reserved)
