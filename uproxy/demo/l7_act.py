"""The act with an L7 proxy: a shared Envoy enters the path of one destination, and leaves it again.

    application → policy on → policy by caller → policy off → Envoy replaced → latencies

As in `story`, a line is printed after what it says was checked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from uproxy.demo.envoy import EnvoyProcess, find_envoy
from uproxy.demo.evidence import Row, access_of, expect, other_serial, serial, verdict
from uproxy.demo.l7_world import PROXY, SHOP, THROUGH, L7World
from uproxy.demo.processes import until, until_async
from uproxy.demo.screen import Screen
from uproxy.demo.unauthorized import connect_to_door
from uproxy.demo.uproxies import UproxyProcess
from uproxy.demo.web import FLAKY, STEADY, Answer, HttpConnection, Load, fetch
from uproxy.demo.world import FRONTEND, HOME, L7, NEWSLETTER, DemoWorld
from uproxy.errors import UproxyError

_TRIES = 6
"""GETs of what the application answers every second time."""
_CLIENTS = 4
"""How many clients call while the Envoy is replaced."""
_BEFORE_AND_AFTER = 100
"""Requests that are answered before an Envoy is replaced, and after it has ended."""
_TIMED = 300
"""Requests over one connection, for latencies."""
_REQUESTS = "http.tunnels.downstream_rq_total"
"""Envoy's counter of CONNECTs."""
_HANDSHAKES = "http.tunnels.downstream_cx_ssl_total"
"""Envoy's counter of tunnels that have come in."""
_TUNNELS = "http.tunnels.downstream_cx_active"
"""Envoy's gauge of tunnels that are there."""


class L7Act:
    """Runs the act once."""

    def __init__(self, world: DemoWorld, screen: Screen, servers: Mapping[str, int]) -> None:
        """`servers` are the applications that run beside orders already."""
        self._world = world
        self._screen = screen
        self._l7 = L7World(world, servers)

    async def tell(self) -> bool:
        """Run the act.  Return False, having said why, if there is no Envoy.

        Raises:
            UproxyError: a check failed.
        """
        screen, l7 = self._screen, self._l7
        try:
            find_envoy()
        except UproxyError as error:
            screen.note(f"left out: {error}")
            return False
        await self._show_shop()
        with screen.waiting("an Envoy starts and asks for its identity"):
            envoy, running = await l7.start_envoy("envoy-1")
            await l7.start_newsletter(envoy)
        screen.done(f"an Envoy is {L7}")
        screen.fact("orders' trust", "it may speak for frontend and newsletter, with their proofs "
                    "(JWT-SVIDs) only")  # fmt: skip
        await self._switch_on(envoy)
        await self._show_callers()
        await self._show_forgery()
        await self._renew(envoy)
        await self._switch_off(envoy)
        other = await self._replace(envoy, running)
        await self._show_latencies(other)
        return True

    async def _show_shop(self) -> None:
        """Start the application; check that it is reached straight, and fails now and then."""
        with self._screen.waiting("an HTTP application starts, and both uProxies learn of it"):
            await self._l7.start_shop()
        statuses = await self._statuses()
        expect(statuses.count(503) == _TRIES / 2, f"straight to {SHOP}: {statuses}")
        self._screen.done(f"an HTTP application, {SHOP}, joins orders; both uProxies have reloaded")
        self._screen.fact("straight", f"{_TRIES} GETs are answered {_listed(statuses)}")

    async def _switch_on(self, envoy: EnvoyProcess) -> None:
        """Send frontend's connections through the Envoy; check that its policy works."""
        world, screen, l7 = self._world, self._screen, self._l7
        with screen.waiting("frontend's uProxy reloads"):
            await world.frontend.change(l7.frontend_config(via=envoy))
        screen.done(f"`via: {PROXY}` is in frontend.yaml, and in force")
        before = l7.shop.requests
        answer = await fetch(l7.doors[FRONTEND], "GET", STEADY)
        expect(answer.headers.get("x-lua") == f"hello, {FRONTEND}", f"no header of Lua: {answer}")
        screen.fact("a script", f"adds the header `x-lua: {answer.headers['x-lua']}`")
        statuses = await self._statuses()
        expect(set(statuses) == {200}, f"through the Envoy: {statuses}")
        reached = l7.shop.requests - before - 1
        expect(reached > _TRIES, f"{_TRIES} requests reached {SHOP} {reached} times")
        screen.fact(
            "retries", f"{_TRIES} GETs are answered {_listed(statuses)}; {SHOP} saw {reached}"
        )
        row = await _connection_through(world.orders, FRONTEND)
        screen.fact("orders says", f"{row['identity']} called, via {row['via']}")

    async def _show_callers(self) -> None:
        """Check that the policy tells callers apart by SPIFFE ID."""
        statuses = {
            caller: [(await self._ask(caller, method)).status for method in ("GET", "POST")]
            for caller in (FRONTEND, NEWSLETTER)
        }
        expect(statuses[FRONTEND] == [200, 200], f"frontend was answered {statuses[FRONTEND]}")
        expect(
            statuses[NEWSLETTER] == [200, 403], f"newsletter was answered {statuses[NEWSLETTER]}"
        )
        self._screen.done("who may do what is decided by the caller's SPIFFE ID")
        for caller, (get, post) in statuses.items():
            self._screen.fact(_name_of(caller), f"GET {get}, POST {post}")

    async def _show_forgery(self) -> None:
        """Check that nobody but the L7 proxy may say whom it speaks for."""
        world, forged = self._world, ("x-uproxy-caller", FRONTEND)
        svid, shop = await world.identity(NEWSLETTER), f"127.0.0.1:{self._l7.shop.port}"
        result = await connect_to_door(world.tunnel_port, svid, shop, forged)
        row = await access_of(world.orders, result)
        expect(row["outcome"] == "denied", f"a forged header was answered {result}: {row}")
        expect(row["src.identity"] == NEWSLETTER, f"a forged header was believed: {row}")
        self._screen.done("refused: newsletter straight to orders, with a forged header")
        self._screen.fact("it said", f"{forged[0]}: {forged[1]}")
        self._screen.fact("it saw", str(result.refusal))
        self._screen.fact("orders says", verdict(row))

    async def _renew(self, envoy: EnvoyProcess) -> None:
        """Renew all certificates; check that the Envoy shows its new one in new handshakes, and
        callers get through."""
        screen, callers = self._screen, (self._world.frontend, self._l7.newsletter)
        old, before = await envoy.own_serial(), await envoy.statistic(_HANDSHAKES)
        theirs = [serial(await one.own_certificate()) for one in callers]

        async def look() -> str:
            found = await envoy.own_serial()
            return "" if found == old else found

        with screen.waiting("the authority issues new certificates to everybody"):
            self._world.authority.renew(HOME)
            new = await until_async(look, f"{envoy.name} has a new certificate", envoy)
            for one, their in zip(callers, theirs, strict=True):
                await other_serial(one, their)
            for caller in (FRONTEND, NEWSLETTER):
                answer = await self._ask(caller, "GET")
                expect(answer.status == 200, f"with new certificates {caller} got {answer}")
        made = await envoy.statistic(_HANDSHAKES) - before
        expect(made >= len(callers), f"{made} tunnels were made with new certificates")
        screen.done("certificates are renewed once more, the Envoy's too (SDS), and calls go on")
        screen.fact("the Envoy", f"serial {old[:16]}… → {new[:16]}…, {made} new handshakes")

    async def _switch_off(self, envoy: EnvoyProcess) -> None:
        """Send frontend's connections straight again; check that the Envoy has no part in them."""
        world, screen, l7 = self._world, self._screen, self._l7
        with screen.waiting("frontend's uProxy reloads"):
            await world.frontend.change(l7.frontend_config())
        before = await envoy.statistic(_REQUESTS)
        answer, statuses = await fetch(l7.doors[FRONTEND], "GET", STEADY), await self._statuses()
        after = await envoy.statistic(_REQUESTS)
        expect("x-lua" not in answer.headers, f"a header of Lua is still there: {answer}")
        expect(statuses.count(503) == _TRIES / 2, f"straight to {SHOP}: {statuses}")
        expect(before == after, f"the Envoy took {after - before} CONNECTs more")
        screen.done(f"`via: {PROXY}` is out again, and the Envoy out of the path")
        screen.fact("straight", f"{_TRIES} GETs are answered {_listed(statuses)}, without x-lua")
        screen.fact("the Envoy says", f"{after} CONNECTs in all, none of these among them")

    async def _replace(self, old: EnvoyProcess, running: AsyncExitStack) -> EnvoyProcess:
        """Replace the Envoy by another while newsletter's clients call; check that none of them
        notices.  Return the other."""
        screen, l7 = self._screen, self._l7
        with screen.waiting("another Envoy takes over under load"):
            new, _ = await l7.start_envoy("envoy-2")
            async with Load(l7.doors[NEWSLETTER], _CLIENTS) as load:
                await _answered(load, _BEFORE_AND_AFTER)
                await l7.newsletter.change(l7.newsletter_config([new], draining=[old]))
                await _has_no_tunnels(old)
                await running.aclose()
                await _answered(load, load.answered + _BEFORE_AND_AFTER)
        expect(load.failures == [], f"{len(load.failures)} requests failed: {load.failures[:1]}")
        screen.done("the Envoy is replaced under load: marked `draining: true`, idle, then stopped")
        screen.fact("its callers", f"had {load.answered} answers meanwhile, and no error")
        return new

    async def _show_latencies(self, envoy: EnvoyProcess) -> None:
        """Measure requests over one connection for each path, and print how long they took."""
        l7 = self._l7
        before = await envoy.statistic("http.l7.downstream_rq_total")
        straight = await _times(l7.doors[FRONTEND])
        through = await _times(l7.doors[NEWSLETTER])
        seen = await envoy.statistic("http.l7.downstream_rq_total") - before
        # a few of the load that has just been stopped may still come
        expect(_TIMED <= seen < 2 * _TIMED, f"{seen} requests went through the Envoy, not {_TIMED}")
        self._screen.done(f"{_TIMED} requests over each path, one after the other (ms)")
        rows = [["straight", *_quantiles(straight)], ["through Envoy", *_quantiles(through)]]
        self._screen.table(("path", "p50", "p99"), rows)

    async def _statuses(self) -> list[int]:
        port = self._l7.doors[FRONTEND]
        return [(await fetch(port, "GET", FLAKY)).status for _ in range(_TRIES)]

    async def _ask(self, caller: str, method: str) -> Answer:
        return await fetch(self._l7.doors[caller], method, STEADY)


async def _connection_through(orders: UproxyProcess, caller: str) -> Row:
    """Return the row of an open connection of this caller that came through the L7 proxy."""

    async def look() -> Row | None:
        rows: list[Row] = (await orders.connections()).get("connections", [])
        return next((row for row in rows if row["rule"] == THROUGH), None)

    row = await until_async(look, "orders shows a connection through the Envoy", orders)
    assert row is not None  # noqa: S101  `until_async` waited for it
    expect((row["identity"], row["via"]) == (caller, PROXY), f"orders says {row}")
    return row


async def _has_no_tunnels(envoy: EnvoyProcess) -> None:
    async def look() -> bool:
        return await envoy.statistic(_TUNNELS) == 0

    await until_async(look, f"the tunnels to {envoy.name} end", envoy)


async def _answered(load: Load, count: int) -> None:
    await until(lambda: load.answered >= count or load.failures, f"{count} requests are answered")


async def _times(port: int) -> list[float]:
    """Return the seconds that requests took, each after the other over one connection."""
    connection = await HttpConnection.open(port)
    times = []
    try:
        for _ in range(_TIMED):
            began = time.perf_counter()
            answer = await connection.ask("GET", STEADY)
            times.append(time.perf_counter() - began)
            expect(answer.status == 200, f"a timed request was answered {answer}")
    finally:
        await connection.close()
    return times


def _quantiles(times: Sequence[float]) -> list[str]:
    """Return p50 and p99, in milliseconds."""
    found = statistics.quantiles(times, n=100)
    return [f"{found[rank - 1] * 1000:.2f}" for rank in (50, 99)]


def _listed(statuses: Sequence[int]) -> str:
    return " ".join(map(str, statuses))


def _name_of(spiffe_id: str) -> str:
    return spiffe_id.rpartition("/")[2]
