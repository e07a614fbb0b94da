"""One uProxy runs beside each workload: what it holds when idle is bounded, and nothing is
loaded that it never asks."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.endings import metric
from uproxy.lab.memory import private_dirty
from uproxy.lab.mesh import ORDERS, WEB, AgentWorld, Inbound, Outbound
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

CEILING = 21 << 20
"""Bytes of private memory."""

ENGINES = ("native", "python")

_TELLING = """\
import signal, sys

def tell(*_):
    loaded = (name for name, module in sys.modules.items() if getattr(module, "__spec__", None))
    print("modules:", *sorted(loaded), file=sys.stderr, flush=True)

signal.signal(signal.SIGRTMIN, tell)
from uproxy.cli import main
sys.exit(main())
"""
"""`uproxy` that lists its modules at SIGRTMIN; stand-ins have no `__spec__`."""

UNWANTED = re.compile(
    r"""
    ssl | _ssl | _hashlib                         # the system's OpenSSL
    | OpenSSL | cffi | pycparser                  # for the tests, or for building
    | grpc | google | spiffe | multiprocessing | wsgiref | socketserver | http\.(client|server)
    | email | xml | html | tempfile | subprocess | _posixsubprocess | selectors | random
    | inspect | ast | _ast | dis | opcode | tokenize | textwrap
    | argparse | ctypes(\..*)? | _ctypes
    | gettext | locale | shutil | bz2 | lzma
    | asyncio\.(sslproto | unix_events | selector_events | subprocess | base_subprocess)
    | prometheus_client | hpack\.huffman_table
    | cryptography\.hazmat\.(backends\.openssl\.backend | bindings\.openssl\.binding)
    | cryptography\.hazmat\.primitives\.(ciphers | serialization\.ssh)
    | cryptography\.hazmat\.primitives\.asymmetric\.(ed448 | mldsa | mlkem | types | x448)
    | cryptography\.hazmat\.decrepit
    | jwt(\..*)?                                  # tokens, which few need
    | uproxy\.identity\.(tokens | workload_api\.jwt_.*)
    | uproxy\.(authority | demo | lab)
    """,
    re.VERBOSE,
)

ONLY_WHEN_ASKED = {"uproxy.app.facts", "uproxy.proxy.admin.facts", "uproxy.proxy.admin.trouble"}
"""What answers more than metrics and readiness."""


@pytest.mark.privileged
@pytest.mark.parametrize("engine", ENGINES)
def test_idle_it_holds_21_mib_at_most(
    folder: Path, agent_world: AgentWorld, echo_app: int, engine: str
) -> None:
    """Started as installed, its identity streamed, its metrics scraped."""
    uproxy = Inbound(folder, agent_world.ours(ORDERS), echo_app, engine=engine)
    uproxy.argv[:3] = [str(Path(sys.executable).with_name("uproxy"))]
    # the first start may have to compile; an installed one hasn't
    for _ in range(2):
        with uproxy:
            uproxy.wait_until_ready()
            assert metric(uproxy, "uproxy_connections") == 0
            # a library's pages count as dirty until they are on disk
            os.sync()
            held = private_dirty(uproxy.pid)
    assert held <= CEILING, f"{held / (1 << 20):.1f} MiB"


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_it_never_asks_is_not_loaded(
    folder: Path, agent_world: AgentWorld, echo_app: int, engine: str
) -> None:
    inbound = Inbound(folder, agent_world.ours(ORDERS), echo_app, engine=engine)
    outbound = Outbound(folder, agent_world.ours(WEB), inbound.port, engine=engine)
    for uproxy in (inbound, outbound):
        uproxy.argv[1:3] = ["-c", _TELLING]
    with inbound, outbound:
        for uproxy in (inbound, outbound):
            uproxy.wait_until_ready()
        await traffic.exchange(outbound.port, 10_000)
        for uproxy in (inbound, outbound):
            assert [uproxy.request(page)[0] for page in ("/readyz", "/metrics")] == [200, 200]
            assert not {*modules(uproxy)} & ONLY_WHEN_ASKED
            for page in ("/status.json", "/certs", "/"):
                assert uproxy.request(page)[0] == 200
            loaded = modules(uproxy)
            assert {*loaded} >= ONLY_WHEN_ASKED
            unwanted = [name for name in loaded if UNWANTED.fullmatch(name)]
            # the compiled engine does prctl(2) itself
            assert [name for name in unwanted if engine == "native" or "ctypes" not in name] == []


def modules(uproxy: Uproxy) -> list[str]:
    def told() -> list[str]:
        return re.findall("(?m)^modules: (.+)$", uproxy.output)

    before = len(told())
    uproxy.send(signal.SIGRTMIN)
    wait_until(lambda: len(told()) > before, "the names of its modules")
    return told()[-1].split()
