"""Applications nobody here wrote read uProxy's PROXY protocol, version 2: nginx the caller's
address, Envoy the caller's SPIFFE ID too.  The caller is curl, with mutual TLS of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import envoy
import pytest

from tests.helpers.dialogue import s_client
from tests.helpers.endings import ended, only
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

NGINX = """
daemon off;
{user}
pid {folder}/pid;
error_log stderr notice;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        location / {{
            return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port";
        }}
    }}
}}
"""
TOLD = (
    "told %DOWNSTREAM_REMOTE_ADDRESS% "
    "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:spiffe_id)%\n"
)
EXTENSIONS = "type.googleapis.com/envoy.extensions"


class Nginx(Process):
    """Answers a request with what the PROXY protocol told of its connection; without one it
    answers nothing."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        # as root its workers would be www-data, who can't see pytest's folders
        user = "user root;" if os.geteuid() == 0 else ""
        conf = folder / "nginx.conf"
        conf.write_text(NGINX.format(user=user, folder=folder, port=self.port))
        super().__init__(["nginx", "-p", folder, "-c", conf, "-e", "stderr"], folder / "nginx.log")

    def is_ready(self) -> bool:
        return listens(self.port)


class Envoy(Process):
    """Echoes, and logs what the PROXY protocol told of each connection."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = folder / "envoy.json"
        config.write_text(json.dumps({"static_resources": {"listeners": [self._listener()]}}))
        program = Path(envoy.__file__).parent / "_bin" / "envoy"
        super().__init__(
            [program, "-c", config, "--disable-hot-restart", "--concurrency", "1"],
            folder / "envoy.log",
        )

    def is_ready(self) -> bool:
        # its own word: a connection only to look would be told of too
        return "starting main dispatch loop" in self.output

    @property
    def told(self) -> list[str]:
        """A line for each connection that has ended."""
        lines = self.output.splitlines()
        return [line.removeprefix("told ") for line in lines if line.startswith("told ")]

    def _listener(self) -> dict[str, Any]:
        return {
            "name": "door",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
            "listener_filters": [
                {
                    "name": "proxy_protocol",
                    "typed_config": {
                        "@type": f"{EXTENSIONS}.filters.listener.proxy_protocol.v3.ProxyProtocol",
                        "rules": [{"tlv_type": 0xD0, "on_tlv_present": {"key": "spiffe_id"}}],
                    },
                }
            ],
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "echo",
                            "typed_config": {"@type": f"{EXTENSIONS}.filters.network.echo.v3.Echo"},
                        }
                    ]
                }
            ],
            "access_log": [
                {
                    "name": "told",
                    "typed_config": {
                        "@type": f"{EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog",
                        "log_format": {"text_format_source": {"inline_string": TOLD}},
                    },
                }
            ],
        }


def telling(folder: Path, world: FileWorld, app: int) -> Inbound:
    """A uProxy that tells `app` who called."""
    uproxy = Inbound(folder, world.ours(ORDERS), app)
    uproxy.change(inbound=[{**uproxy.config["inbound"][0], "proxy_protocol": "v2"}])
    return uproxy


@pytest.fixture(scope="module")
def nginx(folder: Path) -> Iterator[Nginx]:
    with Nginx(folder) as running:
        yield running


def curl(port: int, identity: IdentityFiles) -> tuple[str, str]:
    """What came back, and curl's own port."""
    done = subprocess.run(
        ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20",
         "--cert", identity.svid, "--key", identity.key, "--cacert", identity.bundle,
         "-w", "|%{local_port}", f"https://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body, _, port_text = done.stdout.partition("|")
    return body, port_text


def test_nginx_is_told_the_callers_address(
    folder: Path, file_world: FileWorld, nginx: Nginx
) -> None:
    with telling(folder, file_world, nginx.port) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "closed") as lines:
            body, local_port = curl(uproxy.port, file_world.theirs(WEB))

        assert body == f"127.0.0.1 {local_port} {uproxy.port}"
        assert only(lines)["src.addr"] == f"127.0.0.1:{local_port}"


def test_nginx_believes_nobody_who_does_not_tell(
    folder: Path, file_world: FileWorld, nginx: Nginx
) -> None:
    """So the test above can fail."""
    with Inbound(folder, file_world.ours(ORDERS), nginx.port) as uproxy:
        uproxy.wait_until_ready()
        with pytest.raises(subprocess.CalledProcessError):
            curl(uproxy.port, file_world.theirs(WEB))
        wait_until(lambda: "broken header" in nginx.output, "nginx's complaint")


def test_envoy_is_told_the_callers_spiffe_id(folder: Path, file_world: FileWorld) -> None:
    with Envoy(folder) as app, telling(folder, file_world, app.port) as uproxy:
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed") as lines,
            s_client(uproxy.port, file_world.theirs(WEB)) as client,
        ):
            client.type(b"hello\n")
            client.receive("(?m)^hello$")
            client.end()

        line = only(lines)
        assert (line["bytes_recv"], line["bytes_sent"]) == (6, 6)
        wait_until(lambda: app.told, "Envoy's line")
        assert app.told == [f"{line['src.addr']} {WEB}"]
