"""The step in which all identities rotate: new tunnels show them, and what is open stays open."""

from __future__ import annotations

from uproxy.demo.apps import Applications, AppSession
from uproxy.demo.evidence import (
    access_of,
    accesses,
    application_of,
    expect,
    expect_between_us,
    only_open_tunnel,
    other_serial,
    serial,
    tunnel_has_ended,
)
from uproxy.demo.screen import Screen
from uproxy.demo.unauthorized import connect_to_door
from uproxy.demo.world import FRONTEND, HOME, RULE, DemoWorld


class Rotation:
    """Runs the step once."""

    def __init__(self, world: DemoWorld, screen: Screen, apps: Applications) -> None:
        self._world = world
        self._screen = screen
        self._apps = apps

    async def tell(self) -> None:
        """Renew all certificates while a connection is open; check that its tunnel ends with it.

        Raises:
            UproxyError: a check failed.
        """
        world, screen = self._world, self._screen
        session = await self._apps.open_session(world.doors)
        try:
            tunnel = await self._renew_under(session)
        finally:
            await session.close()
        await tunnel_has_ended(world.orders, tunnel)
        screen.done("its client has closed it, and the old tunnel ended with its last stream")

    async def _renew_under(self, session: AppSession) -> str:
        """Renew all certificates; check that new tunnels are made with them, and that an open
        connection stays in its tunnel.  Return from where that comes."""
        orders, screen = self._world.orders, self._screen
        name = await session.ask()
        old = str((await only_open_tunnel(orders))["source"])
        screen.done(f"a connection is open: {name}")
        screen.fact("its tunnel", f"from {old}")
        await self._renew()
        new = await self._other_tunnel(old)
        screen.done("a new connection makes a tunnel with the new certificates")
        screen.fact("its tunnel", f"from {new}")
        again = await session.ask()
        expect(again == name, f"the connection was {name}, now it is {again}")
        kept = str((await only_open_tunnel(orders))["source"])
        expect(kept == old, f"its tunnel was from {old}, now it is from {kept}")
        screen.done(f"the open connection answers as before: {again}")
        screen.fact("its tunnel", f"from {old} still")
        return old

    async def _renew(self) -> None:
        """Renew all certificates; check that both uProxies have theirs, and that orders shows
        its."""
        world, screen = self._world, self._screen
        both = (world.frontend, world.orders)
        before = [serial(await one.own_certificate()) for one in both]
        await self._expect_shown(before[1])
        with screen.waiting("the authority issues new certificates to everybody"):
            world.authority.renew(HOME)
            after = [await other_serial(one, old) for one, old in zip(both, before, strict=True)]
        screen.done("the authority has issued new certificates, and both uProxies have theirs")
        for uproxy, old, new in zip(both, before, after, strict=True):
            screen.fact(uproxy.name, f"serial {old[:16]}… → {new[:16]}…")
        await self._expect_shown(after[1])
        screen.done("a new handshake is shown the new certificate of orders")

    async def _other_tunnel(self, old: str) -> str:
        """Make a connection; check that another tunnel than that from `old` carried it, and return
        from where that comes."""
        orders, before = self._world.orders, len(self._world.orders.accesses)
        await self._apps.call(self._world.doors, 1)
        row = (await accesses(orders, before + 1))[before]
        expect_between_us(row)
        expect(row["src.addr"] != old, f"a tunnel made with an old certificate took {row}")
        return str(row["src.addr"])

    async def _expect_shown(self, number: str) -> None:
        """Check that orders presents the certificate with this serial number to a client with
        frontend's identity."""
        svid, application = await self._world.identity(FRONTEND), application_of(self._apps.servers)
        result = await connect_to_door(self._world.tunnel_port, svid, application)
        shown = "none" if result.certificate is None else result.certificate.serial_number
        expect(shown == int(number, 16), f"orders shows {shown}, its admin listener says {number}")
        row = await access_of(self._world.orders, result)
        expect(row["rule"] == RULE, f"frontend's identity wasn't let in: {row}")
