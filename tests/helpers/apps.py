"""The applications behind a proxy: PostgreSQL, Redis and nginx from the distribution.

Each is a context manager: ready when entered, stopped and its data removed when left.  They
listen on free loopback ports and never touch a server that already runs on the machine.  Their
clients take host and port, so that they can connect through a proxy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process

_MIB = 1 << 20


class Postgres(Process):
    """A new PostgreSQL cluster with the database and superuser `postgres`, without a password."""

    def __init__(self, port: int | None = None, *, inside: Sequence[str] = ()) -> None:
        """`inside` begins a command, run as root, that runs another one elsewhere: in a network
        namespace, say, where it listens at all addresses."""
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="uproxy-postgres-"))
        """Its unix socket is here too."""
        # PostgreSQL refuses to be root, and pytest's folders let nobody else in
        user = "postgres" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self.folder, user, user)
        self._owner = user
        self._data = self.folder / "data"
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        super().__init__(
            [*inside, *(become if inside else ()),
             _postgres_programs() / "postgres", "-D", self._data,
             "-h", "*" if inside else "127.0.0.1", "-p", str(self.port), "-k", self.folder,
             "-c", "fsync=off", "-c", "shared_buffers=16MB"],
            self.folder / "postgres.log",
            user=None if inside else user,
        )  # fmt: skip

    def is_ready(self) -> bool:
        return "ready to accept connections" in self.output

    def __enter__(self) -> Self:
        subprocess.run(
            [_postgres_programs() / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
            check=True, capture_output=True, cwd=self.folder, user=self._owner, group=self._owner,
        )  # fmt: skip
        with (self._data / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all all all trust\n")
        return super().__enter__()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop it; by default with SIGINT, a fast shutdown: clients are cut, data are written."""
        return super().stop(number)

    def __exit__(self, *why: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    @staticmethod
    def psql(
        sql: str,
        port: int,
        host: str = "127.0.0.1",
        *,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> str:
        """Run one or more statements; return what they print, unaligned, without headers.

        `host` may be the folder of a unix socket.  `\\copy … from pstdin` reads `stdin`.

        Raises:
            CalledProcessError: psql or the server reported an error; it is in `stderr`.
        """
        done = subprocess.run(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(port),
             "-U", "postgres", "-d", "postgres", "-c", sql],
            stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
            env={**os.environ, "PGCONNECT_TIMEOUT": "10"}, check=True, timeout=110,
        )  # fmt: skip
        return (done.stdout or b"").decode().strip()


class Redis(Process):
    """A Redis that stores nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
             "--appendonly", "no", "--dir", folder],
            folder / f"redis-{self.port}.log",
        )  # fmt: skip

    def is_ready(self) -> bool:
        return listens(self.port)

    @staticmethod
    def cli(*words: str, port: int, host: str = "127.0.0.1") -> str:
        """Return what redis-cli prints for one command.

        Raises:
            CalledProcessError: it could not connect, or Redis answered with an error.
        """
        argv = ["redis-cli", "-e", "-h", host, "-p", str(port), *words]
        done = subprocess.run(argv, check=True, capture_output=True, timeout=30)
        return done.stdout.decode().strip()

    @staticmethod
    def benchmark(port: int, *, requests: int, clients: int, host: str = "127.0.0.1") -> str:
        """Return what redis-benchmark prints for SET and GET.

        Raises:
            CalledProcessError: a connection was lost or refused.
        """
        argv = ["redis-benchmark", "-h", host, "-p", str(port), "-n", str(requests),
                "-c", str(clients), "-t", "set,get", "-q"]  # fmt: skip
        done = subprocess.run(argv, check=True, capture_output=True, timeout=110)
        return done.stdout.decode()


_NGINX_CONF = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr notice;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        # an upload ends up in www under its own name
        dav_methods PUT;
    }}
}}
"""


class Nginx(Process):
    """An nginx that serves the folder `www` and stores uploads (PUT) there."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        home = folder / f"nginx-{self.port}"
        self.www = home / "www"
        self.www.mkdir(parents=True)
        # as root its workers would be www-data, who can't see pytest's folders
        user = "user root;" if os.geteuid() == 0 else ""
        conf = home / "nginx.conf"
        conf.write_text(_NGINX_CONF.format(user=user, folder=home, port=self.port))
        super().__init__(["nginx", "-p", home, "-c", conf, "-e", "stderr"], home / "nginx.log")

    def is_ready(self) -> bool:
        return listens(self.port)


def write_file(path: Path, size: int) -> str:
    """Write a file of `size` bytes in which each MiB differs; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in _chunks(size):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, *options: str) -> tuple[int, str]:
    """Fetch a URL with curl, discarding it; return (number of bytes, SHA-256).

    Raises:
        CalledProcessError: curl failed; its message is in `stderr`.
    """
    digest, size = hashlib.sha256(), 0
    argv = _curl_argv(url, options)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        assert curl.stderr is not None
        while chunk := curl.stdout.read(_MIB):
            digest.update(chunk)
            size += len(chunk)
        words = curl.stderr.read()
    if curl.returncode != 0:
        raise subprocess.CalledProcessError(curl.returncode, argv, stderr=words)
    return size, digest.hexdigest()


def upload(path: Path, url: str, *options: str) -> None:
    """Send a file with curl as a PUT.

    Raises:
        CalledProcessError: curl failed; its message is in `stderr`.
    """
    argv = _curl_argv(url, ["-T", str(path), *options])
    subprocess.run(argv, check=True, capture_output=True)


def _curl_argv(url: str, options: Sequence[str]) -> list[str]:
    return ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "110", *options, url]


def _chunks(size: int) -> Iterator[bytes]:
    noise = os.urandom(_MIB)
    for offset in range(0, size, _MIB):
        chunk = offset.to_bytes(8, "big") + noise[8:]
        yield chunk[: size - offset]


def _postgres_programs() -> Path:
    """Return the folder of initdb and postgres, which Debian doesn't put on PATH."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if not found:
        raise FileNotFoundError("no initdb: install the package postgresql")
    return found[-1].parent
