"""A running uProxy: what is built in which order, and what each signal does.

Starting: privileges, log, border, limits, identity, doors, admin, then ready.  Stopping is
the reverse, after `draining`.  Nothing is decided here; this is where everything meets.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from uproxy import __version__, libssl, signals, sockets, systemd
from uproxy.addresses import Records
from uproxy.app import hardening
from uproxy.app.administration import Administration
from uproxy.app.budget import budget_of
from uproxy.app.configuration import ConfigurationFile
from uproxy.app.doors import socket_plans
from uproxy.app.draining import drain
from uproxy.app.identity import now, refuse_unusable_files
from uproxy.app.parts import Parts
from uproxy.app.quitting import unless_told_to_quit
from uproxy.app.reloading import Reloader
from uproxy.app.starting import accept
from uproxy.app.state import RunState
from uproxy.app.vitals import Vitals
from uproxy.config import Settings, warnings
from uproxy.descriptors import Budget
from uproxy.errors import UproxyError
from uproxy.identity.files import FilesSource
from uproxy.log import Log
from uproxy.metrics import history
from uproxy.model import Limits, Mistake
from uproxy.offloop import compute, off_loop
from uproxy.proxy.admin.sources import Sources
from uproxy.snapshot import Snapshot, names_in
from uproxy.tasks import background

if TYPE_CHECKING:
    from uproxy.app.facts import Facts

WATCH_AGAIN_S: Final = 30.0
"""How long the configuration isn't looked at when there is no thread for that."""

COMPILE_TRIES: Final = 3
"""Attempts to compile a reload's rules beside the event loop, each spoilt by another change."""

_log = logging.getLogger(__name__)


class Order(enum.Enum):
    """What signals, admin requests and the file's watcher ask for."""

    RELOAD = enum.auto()
    DRAIN = enum.auto()
    QUIT = enum.auto()


async def serve(file: ConfigurationFile) -> int:
    """Run until told to quit.  Returns the exit code.

    Raises:
        UproxyError: it could not start; nothing is left open.
    """
    read = await unless_told_to_quit(_read(file))
    if read is None:
        return 0
    settings, seen = read
    hardening.lock_in(settings.engine)
    log = Log(settings.log, settings.name)
    log.start()
    try:
        return await RunningProxy(file, seen, settings, log).run()
    finally:
        log.finish()


async def _read(file: ConfigurationFile) -> tuple[Settings, tuple[int, ...]]:
    """Return the configuration, and the fingerprint that its file had just before it was read:
    a change while we start is noticed by it."""
    seen: list[tuple[int, ...]] = []
    settings = await file.load(seen.append)
    await off_loop(partial(refuse_unusable_files, settings.identity), "identity's files")
    return settings, seen[-1]


class RunningProxy:
    """One uProxy, from its start to its end."""

    def __init__(
        self, file: ConfigurationFile, seen: tuple[int, ...], settings: Settings, log: Log
    ) -> None:
        """Builds the parts; nothing is open yet.  `seen` is the fingerprint of the file when
        `settings` were read.

        Raises:
            EngineError: the TLS library isn't the tested one.
        """
        versions = {
            "uproxy": __version__,
            "python": sys.version.split()[0],
            "openssl": libssl.check().openssl,
        }
        self._orders: asyncio.Queue[Order] = asyncio.Queue()
        self._hurry = asyncio.Event()  # set by a second request to quit
        self._draining: asyncio.Task[int] | None = None  # from the first order to drain
        self._ending = False  # since the first order to drain or to quit
        self._reload_wanted = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None  # from the start to the end of `_obey`
        self._warned: frozenset[Mistake] = (
            frozenset()
        )  # the warnings logged about the configuration in force
        self._state = RunState(now(), now(), os.path.abspath(file.path))
        offer = systemd.take(os.environ)
        self._watchdog_s = offer.watchdog_s
        self._notifier = systemd.Notifier(offer.notify_socket)
        self._listeners = systemd.PassedSockets(offer.descriptors)
        self._parts = Parts(settings, log, self._listeners, versions)
        vitals = Vitals(
            self._state, self._parts, versions, self._order(Order.DRAIN), self._order(Order.QUIT)
        )
        self._admin = Administration(Sources(vitals, partial(_facts, vitals)), self._listeners)
        self._vitals = vitals
        self._parts.metrics.watch_readiness(lambda: not vitals.readiness().reasons)
        self._reloader = Reloader(
            file, self._state, self._parts.metrics, lambda: self._settings, self._apply, seen
        )

    async def run(self) -> int:
        """Start, obey orders until one is to quit, stop."""
        try:
            await self._start()
            await self._obey()
        finally:
            await self._stop()
        return 0

    # Starting.

    async def _start(self) -> None:
        settings, parts = self._settings, self._parts
        self._warn(warnings(settings))
        self._listen_to_signals()
        fresh = parts.doors.open_new(socket_plans(settings))
        self._admin.open(settings.admin)
        self._limit(settings.limits, budget_of(settings))
        parts.source.subscribe(lambda _before, _after: self._notifier.status(self._status()))
        parts.proofs.follow(settings)
        parts.l7_health.follow()
        await parts.source.start()
        await parts.connections.start()
        parts.resolver.start()
        await self._admin.start()
        _log.info("started: %s", ", ".join(sorted(map(str, fresh))) or "no doors")
        await accept(parts, self._state, fresh, lambda: self._ending)
        self._state.starting = False
        self._notifier.ready(self._status())
        for name in self._listeners.unused:
            _log.warning("systemd passed a socket %r that no door listens to", name)

    def _warn(self, found: Sequence[Mistake]) -> None:
        """Log those warnings about a configuration that the one before didn't have."""
        for warning in found:
            if warning not in self._warned:
                _log.warning("%s", warning)
        self._warned = frozenset(found)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_quit)
        signals.let_through()
        systemd.adopt_orphans()

    def _limit(self, limits: Limits, budget: Budget) -> None:
        before = self._state.budget
        if budget.note is not None and (before is None or budget.note != before.note):
            _log.warning("%s", budget.note)
        self._state.budget = budget
        self._parts.engine.set_limits(
            Limits(budget.connections, limits.handshakes_in_flight, limits.per_source_connections)
        )

    # Obeying.

    def _order(self, order: Order) -> Callable[[], None]:
        def give() -> None:
            self._ending = self._ending or order is not Order.RELOAD
            self._orders.put_nowait(order)

        return give

    def _asked_to_reload(self) -> None:
        if self._state.draining or self._state.quitting:
            _log.warning("not reloaded: draining")
        else:
            self._orders.put_nowait(Order.RELOAD)

    def _asked_to_quit(self) -> None:
        if self._state.quitting:
            self._hurry.set()
        self._state.quitting = self._ending = True
        self._orders.put_nowait(Order.QUIT)

    async def _obey(self) -> None:
        tasks = [
            background(self._watch_file(), "configuration"),
            background(self._keep_history(), "history"),
        ]
        self._reloading = background(self._keep_reloading(), "reloads")
        if self._watchdog_s is not None:
            watch = systemd.watch(self._notifier, self._watchdog_s, self._alive)
            tasks.append(background(watch, "watchdog"))
        try:
            while (order := await self._orders.get()) is not Order.QUIT:
                if order is Order.DRAIN:
                    self._drain()
                else:
                    self._reload_wanted.set()
            await self._drain_or_hurry()
        finally:
            for task in (*tasks, self._reloading):
                task.cancel()

    async def _keep_history(self) -> None:
        while True:
            await asyncio.sleep(history.STEP_S)
            self._vitals.look()

    def _alive(self) -> bool:
        return not self._vitals.liveness()

    def _status(self) -> str:
        """Return the line for `systemctl status`."""
        return "; ".join(self._vitals.readiness().reasons) or "ready"

    async def _watch_file(self) -> None:
        while True:
            try:
                await self._reloader.changed()
            except UproxyError as error:  # no thread to look with: SIGHUP still reloads
                _log.error("%s", error)
                await asyncio.sleep(WATCH_AGAIN_S)
            else:
                self._asked_to_reload()

    async def _keep_reloading(self) -> None:
        """Reload whenever that was asked for, one at a time; what is asked during a reload is one
        more reload after it.  Draining cancels this."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                await self._reload()
            except asyncio.CancelledError:
                _log.warning("not reloaded: draining")
                raise

    async def _reload(self) -> None:
        self._notifier.reloading()
        if isinstance(self._parts.source, FilesSource):
            await self._parts.source.reload_if_they_answer()
        await self._reloader.reload()
        self._notifier.ready(self._status())

    async def _apply(self, settings: Settings) -> None:
        """Put a validated configuration in force; raises only before anything has changed."""
        parts, before = self._parts, self._settings
        budget = budget_of(settings)
        fresh = parts.doors.open_new(socket_plans(settings))
        try:
            answers = await parts.resolver.ask(names_in(settings) - parts.snapshot.names)
            found = await compute(partial(warnings, settings), "warnings")
            snapshot = await self._compiled(settings, answers)
        except BaseException:
            for listener in fresh.values():
                sockets.release(listener)
            raise
        parts.current.put(snapshot, fresh)
        parts.proofs.follow(settings)
        parts.l7_health.follow()
        parts.resolver.refresh()
        self._limit(settings.limits, budget)
        if settings.log != before.log:
            parts.log.configure(settings.log)
        self._warn(found)
        await asyncio.sleep(0)  # listeners that have no door any more are closed

    async def _compiled(self, settings: Settings, answers: Records) -> Snapshot:
        """Make the snapshot of a new configuration, beside the event loop."""
        parts = self._parts
        for _ in range(COMPILE_TRIES):
            before = parts.snapshot
            snapshot = await compute(partial(before.with_settings, settings, answers), "rules")
            if parts.snapshot is before:
                return snapshot
            # meanwhile an SVID or an address has changed, which the new one must have too
        return parts.snapshot.with_settings(settings, answers)

    # Stopping.

    def _drain(self) -> asyncio.Task[int]:
        """Begin to drain; return the task, of an earlier call if there was one."""
        if self._draining is None:
            self._state.draining = True
            if self._reloading is not None:
                self._reloading.cancel()
            self._notifier.stopping("draining")
            parts = self._parts
            work = drain(parts.connections, parts.doors, self._settings.timeouts)
            self._draining = background(work, "drain")
        return self._draining

    async def _drain_or_hurry(self) -> None:
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        try:
            await asyncio.wait({self._drain(), hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()

    async def _stop(self) -> None:
        parts = self._parts
        if self._draining is not None:
            self._draining.cancel()
        await self._admin.close()
        await parts.resolver.stop()
        await parts.proofs.stop()
        await parts.l7_health.stop()
        await parts.source.stop()
        await parts.engine.stop()
        await parts.connections.stop()

    @property
    def _settings(self) -> Settings:
        return self._parts.snapshot.settings


def _facts(vitals: Vitals) -> Facts:
    """Return what the admin server tells beside the vitals."""
    from uproxy.app.facts import Facts  # to save memory: most are never asked

    return Facts.beside(vitals)
