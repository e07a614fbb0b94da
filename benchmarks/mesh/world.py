"""The mesh while it runs: its processes, where callers connect, and what can be done to it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.mesh import envoys, micro, policy
from benchmarks.mesh.http import answers
from benchmarks.mesh.workloads import CALLERS, SERVICES, Workload
from uproxy.lab.mesh import Identities
from uproxy.lab.processes import Process, Uproxy
from uproxy.lab.software.envoy import EnvoyProcess
from uproxy.lab.software.shared_envoy import FAULTS, SharedEnvoy, build_wasm

PATIENCE_S = 1.0
"""What a caller waits for an answer."""
_START_S = 120.0
"""What a uProxy may take to start: eight read a thousand destinations each, all at once."""


FaultyModule = Callable[[], contextlib.AbstractContextManager[Sequence[Process]]]
"""Gives the requests to the first service a Wasm module with faults while a block runs, which is
given the processes that have the module."""


@dataclass(slots=True)
class World:
    """All processes, ready."""

    nodes: tuple[Sequence[Process], Sequence[Process]]
    """The proxies on each node."""
    shared: Sequence[SharedEnvoy]
    """The L7 proxies that are on neither."""
    doors: Sequence[tuple[str, int]]
    """Where each caller connects to for its service."""
    loop: Callable[[], None] | None
    """Gives the first caller's requests to the first service a script that loops; None: there is
    no L7 proxy."""
    upgrade: Callable[[], None] | None
    """Replaces every L7 proxy, one after the other; None likewise."""
    spoil: Callable[[], None] | None
    """Puts a file that is no YAML in place of the routes on the way from the first caller; None
    likewise."""
    mend: Callable[[], None]
    """Undoes that."""
    faulty_modules: Mapping[str, FaultyModule]
    """By where it runs, `module` (in the L7 proxy) or `apart` (in a process that the L7 proxy
    asks)."""

    @property
    def proxies(self) -> list[Process]:
        """All proxies."""
        return [*self.nodes[0], *self.nodes[1], *self.shared]

    @property
    def victim(self) -> Process:
        """The L7 proxy of the first service, or its uProxy where there is no L7 proxy."""
        return self.shared[0] if self.shared else self.nodes[1][0]

    @property
    def spoilt(self) -> Sequence[Process]:
        """The L7 proxies whose routes `spoil` replaces."""
        return self.shared or self.nodes[0][:1]


@dataclass(slots=True)
class Suffering:
    """What callers see, each asking for its service again and again."""

    failed: list[int] = field(default_factory=lambda: [0] * len(CALLERS))
    """Requests without an answer, by caller."""
    last_failure: float = 0.0
    """When the last one of them was given up, as `time.monotonic`."""
    asked: int = 0

    @property
    def hit(self) -> int:
        """How many callers had a request without an answer."""
        return sum(map(bool, self.failed))


Make = Callable[[Path, Identities, int], "contextlib.AbstractContextManager[World]"]
_Group = Callable[[Path, Identities, tuple[Workload, ...], int], list[envoys.MeshEnvoy]]


def of_envoys(group: _Group) -> Make:
    """Return what makes a world with Envoys on both nodes, for a mesh of so many services."""

    @contextlib.contextmanager
    def made(folder: Path, identities: Identities, services: int) -> Iterator[World]:
        nodes = tuple(group(folder, identities, node, services) for node in (CALLERS, SERVICES))
        with started([*nodes[0], *nodes[1]]):
            doors = [(each.host, envoys.OUT) for each in CALLERS]

            def loop() -> None:
                _loop_at(nodes[0][0])

            def upgrade() -> None:
                for each in (*nodes[0], *nodes[1]):
                    restart(each)

            first = nodes[0][0]

            def mend() -> None:
                first.route(first.workloads[0].account)

            yield World(
                (nodes[0], nodes[1]), (), doors, loop, upgrade, first.spoil, mend,
                faulty_modules={"module": partial(_module_in, nodes[1][0], folder)},
            )  # fmt: skip

    return made


def _loop_at(envoy: envoys.MeshEnvoy) -> None:
    account = envoy.workloads[0].account
    envoy.route(account, policy.SCRIPT_THAT_LOOPS)


@contextlib.contextmanager
def _module_in(envoy: envoys.MeshEnvoy, folder: Path) -> Iterator[Sequence[Process]]:
    module = folder / policy.MODULE
    build_wasm(FAULTS, module)
    before = envoy.config.read_text()
    envoy.config.write_text(envoys.with_module(before, envoy.workloads[0], module))
    restart(envoy)
    yield [envoy]
    envoy.config.write_text(before)
    restart(envoy)


def restart(process: Process) -> None:
    """End a process and start it again."""
    process.stop(signal.SIGTERM)
    process.start()


@contextlib.contextmanager
def started(processes: Sequence[Process]) -> Iterator[None]:
    """Run processes together; all are ready when the block begins."""
    with contextlib.ExitStack() as stack:
        for each in processes:
            stack.enter_context(each)
        for each in processes:
            if isinstance(each, Uproxy):
                each.wait_until_ready(_START_S)
        yield


@contextlib.contextmanager
def micro_alone(folder: Path, identities: Identities, _services: int) -> Iterator[World]:
    """A uProxy for each workload, and no L7 proxy."""
    with _micro_alone(folder, identities, len(SERVICES)) as running:
        yield running


@contextlib.contextmanager
def micro_that_knows_all(folder: Path, identities: Identities, services: int) -> Iterator[World]:
    """The same, with every service of the mesh in each caller's configuration."""
    with _micro_alone(folder, identities, services) as running:
        yield running


@contextlib.contextmanager
def _micro_alone(folder: Path, identities: Identities, known: int) -> Iterator[World]:
    nodes = (
        micro.callers(folder, identities, [], known),
        micro.called(folder, identities, trusts=False),
    )
    with started([*nodes[0], *nodes[1]]):
        yield World(nodes, (), _micro_doors(), None, None, None, lambda: None, {})


@contextlib.contextmanager
def micro_and_shared(folder: Path, identities: Identities, services: int) -> Iterator[World]:
    """A uProxy for each workload, and two shared Envoys in the path of every connection."""
    files = identities.theirs(micro.L7)
    shared = [SharedEnvoy(folder, files, destinations=micro.HBONE) for _ in range(2)]
    for each in shared:
        envoys.with_two_threads(each)
    nodes = micro.callers(folder, identities, shared), micro.called(folder, identities, trusts=True)
    plain = micro.routes(services)
    with started([*shared, *nodes[0], *nodes[1]]):
        put = partial(policy.put, shared)
        put(plain)

        def upgrade() -> None:
            for each in shared:
                for caller in nodes[0]:
                    caller.drain(shared, (each,))
                time.sleep(PATIENCE_S)  # as long as a request may take
                restart(each)
                policy.put([each], plain)
            for caller in nodes[0]:
                caller.drain(shared, ())

        yield World(
            nodes, shared, _micro_doors(),
            loop=partial(put, policy.with_script(plain)),
            upgrade=upgrade,
            spoil=partial(policy.spoil, shared),
            mend=partial(put, plain),
            faulty_modules={
                "module": partial(policy.module_inside, shared, plain),
                "apart": partial(policy.module_apart, shared, plain),
            },
        )  # fmt: skip


def _micro_doors() -> list[tuple[str, int]]:
    return [(each.host, micro.DOORS + each.number) for each in CALLERS]


@contextlib.contextmanager
def asking(world: World) -> Iterator[Suffering]:
    """Have every caller ask for its service, again and again, while the block runs."""
    seen, over = Suffering(), threading.Event()

    def ask(number: int) -> None:
        host, port = world.doors[number]
        while not over.is_set():
            seen.asked += 1
            if not answers(host, port, f"s{number}", PATIENCE_S):
                seen.failed[number] += 1
                seen.last_failure = time.monotonic()
            over.wait(0.02)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(world.doors))]
    for each in threads:
        each.start()
    try:
        yield seen
    finally:
        over.set()
        for each in threads:
            each.join()


def unreachable(world: World) -> int:
    """Return how many callers don't reach their service now."""
    return sum(
        not answers(host, port, f"s{number}", PATIENCE_S)
        for number, (host, port) in enumerate(world.doors)
    )


def keys_of(process: Process) -> int:
    """Return how many workloads' keys a proxy holds."""
    if not isinstance(process, EnvoyProcess):
        return 1
    found = json.loads(process.admin("/certs"))["certificates"]
    return len({each["cert_chain"][0]["serial_number"] for each in found if each.get("cert_chain")})
