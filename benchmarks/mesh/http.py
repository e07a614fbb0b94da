"""The application of each service, and the load: nginx with an answer of 1 KiB, and h2load."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from benchmarks.mesh.workloads import APPLICATION, Workload
from uproxy.lab.ports import listens
from uproxy.lab.processes import Process

_CONF = """\
daemon off;
{user}
pid {folder}/pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    server {{
{listen}
        location / {{ return 200 "{answer}"; }}
    }}
}}
"""


class Applications(Process):
    """One nginx that listens at the address of each service."""

    def __init__(self, folder: Path, services: Iterable[Workload]) -> None:
        self._hosts = [each.host for each in services]
        home = folder / "nginx"
        home.mkdir()
        conf = home / "nginx.conf"
        listen = "\n".join(f"        listen {host}:{APPLICATION};" for host in self._hosts)
        # as root its workers would be www-data, who can't see a private folder
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(_CONF.format(user=user, folder=home, listen=listen, answer="x" * 1024))
        super().__init__(["nginx", "-p", home, "-c", conf, "-e", "stderr"], home / "log")

    def is_ready(self) -> bool:
        return all(listens(APPLICATION, host) for host in self._hosts)


@dataclass(frozen=True, slots=True)
class Load:
    """What h2load has measured."""

    requests: int
    p50_us: float
    p99_us: float


def load(folder: Path, host: str, port: int, name: str, connections: int, seconds: float) -> Load:
    """Send requests for the service `name` to an address, one at a time on each connection.

    Raises:
        RuntimeError: one failed.
    """
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    argv = ["h2load", "--h1", "-c", str(connections), f"-D{round(seconds * 1000)}ms",
            "--warm-up-time=500ms", f"--log-file={log}", f"--connect-to={host}:{port}",
            f"http://{name}/"]  # fmt: skip
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    if found is None or found[1] == "0" or found[2] != "0" or found[3] != "0":
        raise RuntimeError(f"h2load to {host}:{port}: {done.stdout[-600:]}{done.stderr[-600:]}")
    times = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    cuts = quantiles(times, n=100)
    return Load(int(found[1]), cuts[49], cuts[98])


def answers(host: str, port: int, name: str, timeout: float, path: str = "/") -> bool:
    """Whether one request over a connection of its own is answered with 200 within `timeout` s."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": name})
        response = connection.getresponse()
        return response.status == 200 and len(response.read()) == 1024
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
