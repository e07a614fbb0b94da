"""The act with capture: a client that knows nothing dials the service's own address.

    the client's pod                      the service's pod
    client ··captured·· uProxy ══ HBONE ══ uProxy ── service

    in clear → attached → captured → without its uProxy → detached

As in `story`, a line is printed after what it says was checked.
"""

from __future__ import annotations

import functools
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from uproxy.capture import record
from uproxy.capture.control import DEFAULT_BPFFS
from uproxy.capture.pins import Pins
from uproxy.capture.sysctls import WANTED
from uproxy.demo.evidence import expect, expect_between_us
from uproxy.demo.pods import (
    CLIENT,
    FRONTEND_ADDRESS,
    ORDERS,
    ORDERS_ADDRESS,
    PROXY,
    Pod,
    Pods,
)
from uproxy.demo.processes import Program, ProgramCommand, output_of, until
from uproxy.demo.screen import Screen
from uproxy.demo.uproxies import UproxyProcess, environment
from uproxy.demo.world import FRONTEND, DemoWorld
from uproxy.demo.world import ORDERS as ORDERS_ID

_PORT, _CAPTURED = 8080, 15001
_SERVICE = f"{ORDERS_ADDRESS}:{_PORT}"
_PAGE = "seven apples and a pear"
_CURL = ("-q", "-sS", "--noproxy", "*", "--max-time", "20", "--write-out",
         "%{remote_ip}:%{remote_port} %{local_ip}", f"http://{_SERVICE}/")  # fmt: skip
_WITHOUT_CURL = f"""
import http.client
c = http.client.HTTPConnection("{ORDERS_ADDRESS}", {_PORT}, timeout=20)
c.connect()
peer, own = c.sock.getpeername(), c.sock.getsockname()
c.request("GET", "/")
print(c.getresponse().read().decode().strip(), f"{{peer[0]}}:{{peer[1]}} {{own[0]}}", sep="\\n")
"""
_TRACES = f"""
for family in -4 -6; do ip $family rule; ip $family route show table all; done
cat {" ".join(f"/proc/sys/net/{name}" for name in WANTED)}
! command -v nft >/dev/null || nft list ruleset
"""
"""Prints what capture could change in a network namespace."""


class CaptureAct:
    """Runs the act once."""

    def __init__(self, world: DemoWorld, screen: Screen) -> None:
        self._world = world
        self._screen = screen
        self._proxy = AsyncExitStack()
        """Holds frontend's uProxy."""

    _pods: Pods
    _service: Program
    _frontend: UproxyProcess
    _orders: UproxyProcess

    async def tell(self) -> None:
        """Run the act.

        Raises:
            UproxyError: a check failed, or something can't be done here.
        """
        with self._screen.waiting("two pods are made, and what runs in them starts"):
            await self._start()
        self._screen.done("two pods, each a network namespace of its own, joined by a link")
        self._screen.fact("frontend", f"{FRONTEND_ADDRESS}: a client and a uProxy")
        self._screen.fact("orders", f"{ORDERS_ADDRESS}: a service, at port {_PORT}, and a uProxy")
        await self._show_clear("before")
        before = await self._traces()
        await self._attach()
        await self._show_captured()
        await self._lose_proxy()
        await self._detach(before)
        await self._show_clear("afterwards")

    async def _start(self) -> None:
        world, folder = self._world, self._world.folder
        self._pods = pods = await world.enter(Pods(folder))
        await pods.wait_until_ready()
        page = folder / "page"
        page.mkdir()
        (page / "index.html").write_text(_PAGE + "\n")
        serve = (sys.executable, "-Pu", "-m", "http.server", str(_PORT), "--bind", ORDERS_ADDRESS)
        argv = pods.within(ORDERS, *pods.orders.command(*serve, "--directory", page))
        self._service = await world.enter(Program(ProgramCommand("the service", argv), folder))
        self._orders = await world.enter(self._uproxy(pods.orders, ORDERS, _called(world)))
        world.on_exit(self._proxy.aclose)
        self._frontend = await self._proxy.enter_async_context(
            self._uproxy(pods.frontend, PROXY, _calling(world))
        )
        for pod, program, port in (
            (pods.orders, self._service, _PORT),
            (pods.orders, self._orders, 15008),
            (pods.frontend, self._frontend, _CAPTURED),
        ):
            is_there = functools.partial(pod.listens, port)
            await program.until(is_there, f"{program.command.name} listens")

    def _uproxy(self, pod: Pod, cgroup: str, config: dict[str, Any]) -> UproxyProcess:
        way_in = self._pods.within(cgroup, *pod.command())
        return UproxyProcess(config, self._world.folder, way_in)

    async def _show_clear(self, when: str) -> None:
        """Check that the client, not captured, gets to the service by itself."""
        client = await self._call()
        self._expect_caller(FRONTEND_ADDRESS)
        self._screen.done(f"{when}: {client} gets http://{_SERVICE}/ in clear")
        self._screen.fact("the service saw", f"{FRONTEND_ADDRESS}, the client")

    async def _attach(self) -> None:
        pods, screen = self._pods, self._screen
        words = ("attach", "--cgroup", pods.cgroup(CLIENT), "--netns", str(pods.frontend.pid),
                 "--proxy-cgroup", pods.cgroup(PROXY))  # fmt: skip
        with screen.waiting("capture is attached"):
            said = await self._capture(*words)
        screen.done("capture is attached to the client's cgroup")
        screen.fact("by", " ".join(map(str, ("uproxy capture", *words))))
        screen.fact("it says", said)

    async def _show_captured(self) -> None:
        """Check that the same client gets the same page, and that the mesh carried it."""
        client = await self._call()
        self._expect_caller(ORDERS_ADDRESS)
        screen = self._screen
        for uproxy in (self._frontend, self._orders):
            row = (await uproxy.until(lambda one=uproxy: one.accesses, f"{uproxy.name} logs"))[0]  # type: ignore[misc]  # bound now
            expect_between_us(row)
            expect(row["dst.hbone_addr"] == _SERVICE, f"{uproxy.name} says {row}")
        screen.done(f"captured: the same {client} gets http://{_SERVICE}/ through the mesh")
        screen.fact("its path", f"{client} ·· captured ·· frontend's uProxy ══ HBONE ══ orders' "
                    "uProxy ── service")  # fmt: skip
        screen.fact("the client saw", f"{_SERVICE} as its peer, {FRONTEND_ADDRESS} as its own "
                    "address, as before")  # fmt: skip
        screen.fact("original dest.", f"{_SERVICE}, say the access logs of both uProxies")
        screen.fact("who called", FRONTEND)
        screen.fact("who answered", ORDERS_ID)
        screen.fact("the service saw", f"{ORDERS_ADDRESS}, its own uProxy")

    async def _lose_proxy(self) -> None:
        """Check that without its uProxy the client reaches nobody."""
        await self._proxy.aclose()
        before = len(self._callers())
        async with Program(self._client(), self._world.folder) as client:
            await until(lambda: client.exit_code is not None, "the client is refused")
        expect(client.exit_code != 0, f"without its uProxy the client got {client.lines}")
        expect(len(self._callers()) == before, "the client went around its uProxy")
        self._screen.done("its uProxy has ended: the client is refused, and nothing goes around")
        self._screen.fact("it saw", [line for line in client.lines if "onnect" in line][-1])

    async def _detach(self, before: str) -> None:
        """Detach; check that nothing is left."""
        pods, screen = self._pods, self._screen
        with screen.waiting("capture is detached"):
            await self._capture("detach", "--drain", "0")
        after = await self._traces()
        expect(after == before, f"detach left {set(after.splitlines()) ^ set(before.splitlines())}")
        expect(pods.name not in record.names(record.FOLDER), "detach left a record")
        expect(not Pins(DEFAULT_BPFFS, pods.name).exist(), "detach left pins")
        screen.done("capture is detached, and nothing is left of it")
        screen.fact("as before", "rules, routes and settings of the pod; no program, map or file")

    async def _call(self) -> str:
        """Let the client get the page; check it, and the addresses it saw.  Return its name."""
        command = self._client()
        page, addresses = (await output_of(command, self._world.folder)).split("\n", 1)
        expect(page == _PAGE, f"{command.name} got {page!r}")
        expect(addresses.strip() == f"{_SERVICE} {FRONTEND_ADDRESS}", f"it saw {addresses!r}")
        return command.name

    def _client(self) -> ProgramCommand:
        """Return a client that has never heard of uProxy."""
        curl = shutil.which("curl")
        words = (curl, *_CURL) if curl else (sys.executable, "-c", _WITHOUT_CURL)
        argv = self._pods.within(CLIENT, *self._pods.frontend.command(*words))
        return ProgramCommand("curl" if curl else "a Python client", argv)

    def _callers(self) -> list[str]:
        """Return the addresses of those whose requests the service has logged."""
        return [line.split()[0] for line in self._service.lines if '"GET /' in line]

    def _expect_caller(self, address: str) -> None:
        expect(self._callers()[-1:] == [address], f"the service saw {self._service.lines}")

    async def _capture(self, action: str, *words: str | Path) -> str:
        """Run `uproxy capture`, in the cgroup whose programs end with the demonstration."""
        argv = [sys.executable, "-P", "-m", "uproxy", "capture", action, "--name", self._pods.name]
        command = ProgramCommand(
            f"uproxy capture {action}",
            self._pods.within(ORDERS, *argv, *words),
            env=environment(),
        )
        return await output_of(command, self._world.folder)

    async def _traces(self) -> str:
        argv = self._pods.within(ORDERS, *self._pods.frontend.command("sh", "-c", _TRACES))
        return await output_of(ProgramCommand("sh", argv), self._world.folder)


def _calling(world: DemoWorld) -> dict[str, Any]:
    """Return the configuration of frontend's uProxy: what is captured for orders goes there."""
    return {
        **world.caller("frontend-pod", FRONTEND),
        "outbound": [{"listen": f"127.0.0.1:{_CAPTURED}", "captured": True}],
        "destinations": {
            "orders": {
                "match": {"addresses": [ORDERS_ADDRESS], "ports": [_PORT]},
                "transport": "hbone",
                "identities": [ORDERS_ID],
            }
        },
    }


def _called(world: DemoWorld) -> dict[str, Any]:
    """Return the configuration of orders' uProxy: tunnels, from frontend only."""
    return {
        **world.caller("orders-pod", ORDERS_ID),
        "inbound": [{"listen": f"{ORDERS_ADDRESS}:15008", "transport": "hbone", "ports": [_PORT]}],
        "authorization": [{"action": "allow", "from": {"identities": [FRONTEND]}}],
    }
