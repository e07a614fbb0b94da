"""The destination's name is in the ClientHello, for routers that see nothing else of it.

The router is nginx with `ssl_preread`, as OpenShift's passthrough routes, Traefik's HostSNI and
Istio's gateways are; behind it is `openssl s_server`, which answers each line reversed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, only
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Outbound
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.peers import SServer

CONF = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
stream {{
    map $ssl_preread_server_name $backend {{
        localhost 127.0.0.1:{backend};
        orders.example.org 127.0.0.1:{backend};
        default 127.0.0.1:9;
    }}
    server {{ listen 127.0.0.1:{port}; listen [::1]:{port}; ssl_preread on; proxy_pass $backend; }}
}}
"""


class Router(Process):
    """Passes TLS through to `backend`, if its server name is one of two."""

    def __init__(self, folder: Path, backend: int) -> None:
        self.port = free_port()
        conf = folder / "router.conf"
        conf.write_text(CONF.format(folder=folder, backend=backend, port=self.port))
        command: list[str | Path] = ["nginx", "-p", folder, "-c", conf, "-e", "stderr"]
        super().__init__(command, folder / "router.log")

    def is_ready(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def router(folder: Path, file_world: FileWorld) -> Iterator[Router]:
    with (
        SServer(folder, file_world.theirs(ORDERS)) as orders,
        Router(folder, orders.port) as router,
    ):
        yield router


def through(
    router: Router, world: FileWorld, folder: Path, engine: str, **destination: object
) -> Outbound:
    uproxy = Outbound(folder, world.ours(WEB), router.port, engine=engine)
    uproxy.config["destinations"]["peer"].update(destination)
    uproxy.write_config(uproxy.config)
    return uproxy


@pytest.mark.parametrize("engine", ["native", "python"])
def test_the_name_in_the_address_is_told(
    router: Router, file_world: FileWorld, tmp_path: Path, engine: str
) -> None:
    named = [f"localhost:{router.port}"]
    with through(router, file_world, tmp_path, engine, addresses=named) as uproxy:
        uproxy.wait_until_ready()
        for _ in range(2):  # asked, and from the cache
            assert ask(uproxy.port) == b"olleh\n"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_server_name_is_told_instead(
    router: Router, file_world: FileWorld, tmp_path: Path, engine: str
) -> None:
    name = "orders.example.org"
    with through(router, file_world, tmp_path, engine, server_name=name) as uproxy:
        uproxy.wait_until_ready()
        for _ in range(2):
            assert ask(uproxy.port) == b"olleh\n"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_literal_address_tells_no_name(
    router: Router, file_world: FileWorld, tmp_path: Path, engine: str
) -> None:
    with through(router, file_world, tmp_path, engine) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed") as lines:
            assert ask(uproxy.port) == b""
        # which of them depends on what the router had read when it gave up
        assert any(words in only(lines)["error"] for words in ("closed in the middle", "reset by"))
