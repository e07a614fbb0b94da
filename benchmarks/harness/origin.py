"""The application behind the proxies: nginx, which answers every request with 1 KiB."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.helpers.ports import free_port, listens
from tests.helpers.processes import Process

RESPONSE_BYTES = 1024
"""Header and body together."""

_CONF = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    server {{
        listen 127.0.0.1:{port};
        default_type text/plain;
        return 200 "{body}";
    }}
}}
"""
_HEADER = {"keep": 142, "close": 137}
"""Bytes of nginx's header for an answer of three digits; whoever reads answers counts them."""


class Origin(Process):
    """Serves on `port`; with `close` its answers are 1 KiB for requests that say so."""

    def __init__(self, folder: Path, *, close: bool = False) -> None:
        self.port = free_port()
        home = folder / f"nginx-{self.port}"
        home.mkdir(parents=True)
        conf = home / "nginx.conf"
        body = "x" * (RESPONSE_BYTES - _HEADER["close" if close else "keep"])
        # as root its workers would be www-data, who can't see this folder
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(_CONF.format(user=user, folder=home, port=self.port, body=body))
        super().__init__(["nginx", "-p", home, "-c", conf, "-e", "stderr"], home / "nginx.log")

    def is_ready(self) -> bool:
        return listens(self.port)


def connect(port: int) -> socket.socket:
    """A connection over which a request has been answered whole, left open.

    Raises:
        ConnectionError: the answer ended early.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=30.0)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    missing = RESPONSE_BYTES
    while missing:
        data = sock.recv(missing)
        if not data:
            sock.close()
            raise ConnectionError(f"port {port} closed with {missing} bytes missing")
        missing -= len(data)
    return sock
