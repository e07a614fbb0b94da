"""Two applications behind a uProxy each, the shared Envoy before them, and callers of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.http_app import HttpApp
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, ThroughL7, TunnelsIn
from uproxy.lab.ports import free_port
from uproxy.lab.software.shared_envoy import SharedEnvoy

L7 = "spiffe://example.org/ns/mesh/sa/l7"
"""The shared Envoy's identity."""
TRUST = {"l7": {"identities": [L7], "speaks_for": ["spiffe://example.org/**"]}}
THROUGH_L7 = {
    "name": "callers",
    "action": "allow",
    "from": {"trust_domains": ["example.org"], "via": ["l7"]},
}
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Shared:
    """The shared Envoy, with `first` and `second` behind it, whose uProxies are orders' both."""

    folder: Path
    world: FileWorld
    envoy: SharedEnvoy
    first: HttpApp
    second: HttpApp
    orders: TunnelsIn
    """The uProxy before `first`."""

    @property
    def addresses(self) -> tuple[str, str]:
        """What CONNECTs name to reach both applications."""
        return f"{FIRST}:{self.first.port}", f"{SECOND}:{self.second.port}"

    def another_envoy(self, *options: str, admin_host: str = FIRST) -> SharedEnvoy:
        """Another shared Envoy in front of the same applications, to be started; `options` are for
        its command line."""
        return SharedEnvoy(
            self.folder, self.world.theirs(L7), *options, destinations=self.envoy.destinations,
            names=self.envoy.names, admin_host=admin_host,
        )  # fmt: skip

    def caller(
        self, spiffe_id: str = WEB, *to: str, envoys: Sequence[SharedEnvoy] = (), **more: Any
    ) -> ThroughL7:
        """A workload's uProxy, with a door for each address in `to`, which is `first` by default;
        `envoys` are by default the one that is there.

        `more` are further keys of its configuration.
        """
        proxies = [each.port for each in envoys or [self.envoy]]
        return ThroughL7(
            self.folder, self.world.ours(spiffe_id), *(to or self.addresses[:1]), proxies=proxies,
            l7=L7, **more,
        )  # fmt: skip


@contextlib.contextmanager
def shared_envoy(
    folder: Path, world: FileWorld, *more: int, engine: str = "native"
) -> Iterator[Shared]:
    """Run all of it; `more` are ports of further applications, behind the first uProxy."""
    tunnels = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(HttpApp("first").running())
        second = stack.enter_context(HttpApp("second").running())
        names = {
            "10.0.0.7:8080": f"{FIRST}:{first.port}",
            "10.0.0.8:8080": f"{SECOND}:{second.port}",
        }
        uproxies: list[TunnelsIn] = []
        for host, ports in ((FIRST, (first.port, *more)), (SECOND, (second.port,))):
            uproxy = TunnelsIn(
                folder, world.ours(ORDERS), *ports, engine=engine, host=host, port=tunnels,
                inbound_trust=TRUST, authorization=[THROUGH_L7],
            )  # fmt: skip
            stack.enter_context(uproxy).wait_until_ready()
            uproxies.append(uproxy)
        envoy = SharedEnvoy(folder, world.theirs(L7), destinations=tunnels, names=names)
        yield Shared(folder, world, stack.enter_context(envoy), first, second, uproxies[0])
