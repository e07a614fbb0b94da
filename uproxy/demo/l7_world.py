"""What the act with the L7 proxy adds to the world: an application, Envoys, and another caller.

    frontend's uProxy   ═════════ straight ════════╗
             ╚═ via: l7 ═╗                         ╠═ orders' uProxy ── shop (HTTP)
    newsletter's uProxy ═╩═ Envoy (policy, HBONE) ═╝

The uProxies that run learn of it by reloading their configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from typing import Any

from uproxy.demo.envoy import EnvoyProcess, Surroundings
from uproxy.demo.uproxies import UproxyProcess
from uproxy.demo.web import FlakyApplication
from uproxy.demo.world import FRONTEND, HOME, L7, NEWSLETTER, ORDERS, DemoWorld
from uproxy.lab.ports import free_port

SHOP = "shop"
"""The HTTP application, and the destination with an L7 policy."""
PROXY = "l7"
"""What configurations call the L7 proxy."""
THROUGH = "through-envoy"
"""The rule by which orders lets callers in through it."""


class L7World:
    """The additions; `world` stops them."""

    def __init__(self, world: DemoWorld, servers: Mapping[str, int]) -> None:
        """`servers` are the applications that run beside orders already."""
        self._world = world
        self._servers = servers
        self.shop = FlakyApplication()
        self.doors = {FRONTEND: free_port(), NEWSLETTER: free_port()}
        """The loopback port at which each caller's clients reach the shop."""

    newsletter: UproxyProcess

    async def start_shop(self) -> None:
        """Start the application, and have it reached by frontend, straight.

        Raises:
            UproxyError: a uProxy refuses its configuration.
        """
        await self._world.enter(self.shop)
        await self._world.orders.change(self.orders_config())
        await self._world.frontend.change(self.frontend_config())

    async def start_envoy(self, name: str) -> tuple[EnvoyProcess, AsyncExitStack]:
        """Start an Envoy; closing what is returned with it stops it.

        Raises:
            UproxyError: it doesn't become ready.
        """
        world = self._world
        around = Surroundings(
            folder=world.folder,
            endpoint=world.authority.endpoints[HOME],
            spiffe_id=L7,
            tunnel_port=world.tunnel_port,
            shop=f"127.0.0.1:{self.shop.port}",
            writer=FRONTEND,
        )
        stack = await world.enter(AsyncExitStack())
        envoy = await stack.enter_async_context(EnvoyProcess(name, around))
        await envoy.wait_until_ready()
        return envoy, stack

    async def start_newsletter(self, envoy: EnvoyProcess) -> None:
        """Start the other caller's uProxy, which reaches the shop through an Envoy only.

        Raises:
            UproxyError: it doesn't become ready.
        """
        config = self.newsletter_config([envoy])
        self.newsletter = await self._world.enter(UproxyProcess(config, self._world.folder))
        await self.newsletter.wait_until_ready()

    def orders_config(self) -> dict[str, Any]:
        """Return orders' configuration: the L7 proxy may speak for callers, who may reach the
        shop through it."""
        config = deepcopy(self._world.orders_config({**self._servers, SHOP: self.shop.port}))
        config["inbound_trust"] = {
            PROXY: {
                "identities": [L7],
                "speaks_for": [FRONTEND, NEWSLETTER],
                "require_proof": True,
            }
        }
        config["authorization"].append(
            {
                "name": THROUGH,
                "action": "allow",
                "from": {"identities": [FRONTEND, NEWSLETTER], "via": [PROXY]},
                "to": {"ports": [self.shop.port]},
            }
        )
        return config

    def frontend_config(self, via: EnvoyProcess | None = None) -> dict[str, Any]:
        """Return frontend's configuration with the shop, which it reaches straight or through an
        Envoy."""
        config = deepcopy(self._world.frontend_config(self._servers))
        config["outbound"].append(self._door(FRONTEND))
        if via is None:
            config["destinations"][SHOP] = self._shop(hbone_port=self._world.tunnel_port)
        else:
            config["destinations"][SHOP] = self._shop(via=PROXY)
            config["l7_proxies"] = _proxies([via])
        return config

    def newsletter_config(
        self, envoys: Sequence[EnvoyProcess], draining: Sequence[EnvoyProcess] = ()
    ) -> dict[str, Any]:
        """Return newsletter's configuration, with these Envoys before the shop."""
        return {
            **self._world.caller("newsletter", NEWSLETTER),
            "outbound": [self._door(NEWSLETTER)],
            "destinations": {SHOP: self._shop(via=PROXY)},
            "l7_proxies": _proxies(envoys, draining),
        }

    def _door(self, caller: str) -> dict[str, Any]:
        return {"listen": f"127.0.0.1:{self.doors[caller]}", "to": SHOP}

    def _shop(self, **how: Any) -> dict[str, Any]:
        """Return the destination; `how` is where its tunnels end."""
        return {
            "addresses": [f"127.0.0.1:{self.shop.port}"],
            "transport": "hbone",
            "identities": [ORDERS],
            **how,
        }


def _proxies(
    envoys: Sequence[EnvoyProcess], draining: Sequence[EnvoyProcess] = ()
) -> dict[str, Any]:
    addresses: list[Any] = [f"127.0.0.1:{one.port}" for one in envoys]
    addresses += [{"address": f"127.0.0.1:{one.port}", "draining": True} for one in draining]
    return {PROXY: {"addresses": addresses, "identities": [L7]}}
