"""Two applications behind a uProxy each, the shared Envoy before them, and callers of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.http_app import HttpApp
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy_tunnels import TunnelOriginator
from uproxy.lab.software.shared_envoy import SharedEnvoy

L7 = "spiffe://example.org/ns/mesh/sa/l7"
"""The shared Envoy's identity."""
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Shared:
    """The shared Envoy, with `first` and `second` behind it, whose uProxies are orders' both."""

    folder: Path
    world: FileWorld
    envoy: SharedEnvoy
    first: HttpApp
    second: HttpApp

    @property
    def addresses(self) -> tuple[str, str]:
        """What CONNECTs name to reach both applications."""
        return f"{FIRST}:{self.first.port}", f"{SECOND}:{self.second.port}"

    def another_envoy(self) -> SharedEnvoy:
        """A second shared Envoy in front of the same applications, to be started."""
        return SharedEnvoy(
            self.folder, self.world.theirs(L7), destinations=self.envoy.destinations,
            names=self.envoy.names,
        )  # fmt: skip

    def caller(
        self,
        spiffe_id: str = WEB,
        to: str | None = None,
        envoy: SharedEnvoy | None = None,
        **headers: str | None,
    ) -> TunnelOriginator:
        """A workload's proxy, with whose door each connection is a CONNECT to the address `to`.

        `headers` are on the CONNECT, with hyphens where their names have underscores; it expects
        orders unless they say otherwise, None to leave the header out.
        """
        sent = {"x_uproxy_expect_id": ORDERS, **headers}
        added = [
            {
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                "header": {"key": name.replace("_", "-"), "value": value},
            }
            for name, value in sent.items()
            if value is not None
        ]
        return TunnelOriginator(
            self.folder, self.world.theirs(spiffe_id), target=(envoy or self.envoy).port,
            authority=to or self.addresses[0], expect=[L7],
            proxy={"tunneling_config": {"headers_to_add": added}},
        )  # fmt: skip


@contextlib.contextmanager
def shared_envoy(folder: Path, world: FileWorld, *more: int) -> Iterator[Shared]:
    """Run all of it; `more` are ports of further applications, behind the first uProxy."""
    tunnels = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(HttpApp("first").running())
        second = stack.enter_context(HttpApp("second").running())
        names = {
            "10.0.0.7:8080": f"{FIRST}:{first.port}",
            "10.0.0.8:8080": f"{SECOND}:{second.port}",
        }
        for host, ports in ((FIRST, (first.port, *more)), (SECOND, (second.port,))):
            uproxy = TunnelsIn(
                folder, world.ours(ORDERS), *ports, engine="native", host=host, port=tunnels,
                allow=[L7],
            )  # fmt: skip
            stack.enter_context(uproxy)
            uproxy.wait_until_ready()
        envoy = SharedEnvoy(folder, world.theirs(L7), destinations=tunnels, names=names)
        yield Shared(folder, world, stack.enter_context(envoy), first, second)
