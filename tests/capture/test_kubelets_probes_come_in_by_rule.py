"""A captured application behind a real uProxy, probed in clear from its node, as kubelet does."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import capture_web
from tests.helpers.capture_world import HOST, HOST6, IN, POD, POD6, SECOND, SECOND6, World
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.processes import Process

SHARED, PROBED, SILENT = 8080, 8081, 8082
"""The services' port, which kubelet probes too; one for probes alone; one that no rule names."""
CONFIG: dict[str, Any] = {
    "inbound": [
        {
            "name": "in",
            "listen": f"[::]:{IN}",
            "captured": True,
            "ports": {SHARED: "mtls", PROBED: "plaintext", SILENT: "plaintext"},
            "migrate": [SHARED],
        }
    ],
    "authorization": [
        {
            "name": "mesh",
            "action": "allow",
            "from": {"identities": ["spiffe://example.org/ns/web/sa/frontend"]},
            "to": {"ports": [SHARED]},
        },
        {
            "name": "kubelet",
            "action": "allow",
            "from": {"unauthenticated": True, "cidrs": [HOST, HOST6]},
            "to": {"ports": [SHARED, PROBED]},
        },
    ],
    "admin": {"listen": None, "metrics": None, "ready": None},
    "timeouts": {"drain": "0s", "drain_delay": "0s"},
}


@contextlib.contextmanager
def application(world: World, port: int) -> Iterator[None]:
    """Run a captured web server."""
    words = world.inside(world.pod, world.app, sys.executable, capture_web.__file__, str(port))
    with Process(words, world.folder / f"web-{port}.log") as web:
        web.wait_ready(lambda: "ready" in web.output)
        yield


@contextlib.contextmanager
def probed(world: World, engine: str) -> Iterator[IdentityFiles]:
    """Run application and uProxy; yield a caller's identity."""
    ca = Authority("example.org")
    files = write_identity(world.folder / "orders", ca.issue("/ns/shop/sa/orders"), ca.pem)
    caller = write_identity(world.folder / "web", ca.issue("/ns/web/sa/frontend"), ca.pem)
    bundles = {"example.org": str(files.bundle)}
    identity = {"svid": str(files.svid), "key": str(files.key), "bundles": bundles}
    config = world.folder / "uproxy.yaml"
    config.write_text(json.dumps({"engine": engine, "identity": {"files": identity}, **CONFIG}))
    with contextlib.ExitStack() as stack:
        for port in (SHARED, PROBED, SILENT):
            stack.enter_context(application(world, port))
        words = [sys.executable, "-m", "uproxy", "run", "--config", str(config)]
        words = world.inside(world.pod, world.proxy_cgroup, *words)
        uproxy = stack.enter_context(Process(words, world.folder / "uproxy.log"))
        uproxy.wait_ready(lambda: "started: " in uproxy.output)
        yield caller


def answer(world: World, source: str, url: str, *options: str) -> str:
    """The status that somebody with an address of the host gets; 000: none."""
    words = ["ip", "netns", "exec", world.host, "curl", "-s", "-m", "10", "--interface", source]
    shown = ["-o", "/dev/null", "-w", "%{http_code}"]
    done = subprocess.run(
        [*words, *shown, *options, url], capture_output=True, text=True, check=False
    )
    return done.stdout


@pytest.mark.parametrize("engine", ["native", "python"])
def test_the_node_is_answered_in_clear_and_nobody_else(either: World, engine: str) -> None:
    either.attach("--inbound", f"{SHARED},{PROBED},{SILENT}")
    with probed(either, engine) as caller:
        for pod, node, other in ((POD, HOST, SECOND), (f"[{POD6}]", HOST6, SECOND6)):
            for port in (SHARED, PROBED):
                url = f"http://{pod}:{port}/"
                assert (answer(either, node, url), answer(either, other, url)) == ("200", "000")
            assert answer(either, node, f"http://{pod}:{SILENT}/") == "000"
            with_identity = ("-k", "--cert", str(caller.svid), "--key", str(caller.key))
            url = f"https://{pod}:{SHARED}/"
            assert answer(either, other, url, *with_identity) == "200"
