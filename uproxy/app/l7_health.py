"""Asks each address of the L7 proxies that have `health` whether it may be used, again and again.

What asks is only imported where the configuration wants it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from uproxy.config.settings import L7HealthSettings
from uproxy.destinations import L7, AllEndpoints
from uproxy.model import Address, TcpAddress
from uproxy.snapshot import Snapshot
from uproxy.tasks import background

_log = logging.getLogger(__name__)
_Asked = tuple[Address, L7HealthSettings]
"""One address of an L7 proxy, and how it was asked."""


class L7Health:
    """Follows the configuration in force."""

    def __init__(self, current: Callable[[], Snapshot], endpoints: AllEndpoints) -> None:
        """`current` returns the snapshot in force."""
        self._current = current
        self._endpoints = endpoints
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the L7 proxy's name
        self._passed: dict[str, set[_Asked]] = {}  # those that have passed a check, likewise

    def follow(self) -> None:
        """Ask the L7 proxies that the configuration wants to be asked, and no others."""
        wanted = {
            name
            for name, proxy in self._current().l7_proxies.items()
            if proxy.settings.health is not None
        }
        for name in self._tasks.keys() - wanted:
            self._tasks.pop(name).cancel()
            self._forget(name)
        for name in wanted - self._tasks.keys():
            self._tasks[name] = background(self._keep_asking(name), f"health of {name}")

    async def stop(self) -> None:
        """Ask no more."""
        tasks, self._tasks = [*self._tasks.values()], {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            proxy = self._current().l7_proxies.get(name)
            health = None if proxy is None else proxy.settings.health
            if proxy is None or health is None:
                return  # `follow` is about to be called
            due = loop.time() + health.interval
            await self._ask(name, health, proxy.serving.listed)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _ask(self, name: str, health: L7HealthSettings, ends: Iterable[Address]) -> None:
        """Ask all addresses of an L7 proxy at once, and note what they answer."""
        from uproxy.probing import probe  # to save memory

        asked = [end for end in ends if isinstance(end, TcpAddress)]
        answers = await asyncio.gather(
            *(probe(TcpAddress(end.host, health.port), health.path, health.interval)
              for end in asked)
        )  # fmt: skip
        passed = self._passed.setdefault(name, set())
        passed &= {(end, health) for end in asked}
        for end, why in zip(asked, answers, strict=True):
            if why is None:
                passed.add((end, health))
            has_passed = (end, health) in passed
            self._note(name, end, None if why is None else _reason(why, health, has_passed))

    def _note(self, name: str, end: TcpAddress, reason: str | None) -> None:
        if not self._endpoints[L7, name].checked(end, reason):
            return
        if reason is None:
            _log.info("L7 proxy %s at %s passes its health check again", name, end)
        else:
            _log.warning("L7 proxy %s at %s is passed over: %s", name, end, reason)

    def _forget(self, name: str) -> None:
        """Nobody asks any more whether the addresses of an L7 proxy are healthy."""
        self._endpoints[L7, name].forget_checks()
        self._passed.pop(name, None)


def _reason(why: str, health: L7HealthSettings, has_passed: bool) -> str:
    """Return what to say of a check that failed.  One that has never passed is more likely wrong
    itself than right about the proxy."""
    if has_passed:
        return f"its health check fails: {why}"
    return (
        f"its health check has never passed: {why} (is health.port {health.port} right, and open "
        "to this host? Envoy's admin port usually isn't)"
    )
