"""The applications of `--apps real`: PostgreSQL with psql, and nginx with curl.

They are the distribution's programs, run with folders, ports and a user of their own; servers
that already run on the machine are not touched.  Rules: as root the servers run as another
user, because PostgreSQL refuses root; the database's superuser can only be reached through a
folder that only that user can enter; the user of psql over TCP can only use its own database.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from uproxy.demo.apps import AppSession, DoorPorts, Exchange
from uproxy.demo.processes import Program, ProgramCommand, output_of
from uproxy.demo.screen import Screen
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port, listens

_PACKAGES = {
    "initdb": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql-client",
    "nginx": "nginx",
    "curl": "curl",
}
"""The Debian package of each program."""
_OFF_PATH = ("/usr/local/sbin", "/usr/sbin")
"""Where Debian and Ubuntu install nginx, which is not in the PATH of ordinary users."""
_CLIENT = "web"
"""The database and the user of psql."""

_ORDERS_SQL = """\
create table orders (id int, what text);
insert into orders values (1, 'seven apples'), (2, 'a pear'), (3, 'MARKER');
select what from orders order by id;
"""

_PG_HBA = f"""\
local all         all                    trust
host  {_CLIENT}   {_CLIENT} 127.0.0.1/32 trust
"""

_NGINX_CONF = """\
daemon off;
pid {folder}/nginx.pid;
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
        listen 127.0.0.1:{port};
        location / {{ default_type text/plain; return 200 "a page of nginx for $arg_for\\n"; }}
    }}
}}
"""


class DistributionApplications:
    """PostgreSQL and nginx."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        """`folder` is where folders for the servers are made.

        Raises:
            UproxyError: a program isn't installed.
        """
        self._programs = find_programs()
        self._folder = folder
        self._screen = screen
        self._user = _unprivileged_user()
        self._ports = {"postgres": free_port(), "nginx": free_port()}
        self._cleanup = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start both servers.

        Raises:
            UproxyError: one of them doesn't start.
        """
        try:
            with self._screen.waiting("PostgreSQL makes an empty database and starts"):
                await self._start_postgres()
            with self._screen.waiting("nginx starts"):
                await self._start_nginx()
        except BaseException:
            await self._cleanup.aclose()
            raise
        return self

    async def __aexit__(self, *why: object) -> None:
        """Stop both servers."""
        await self._cleanup.aclose()

    @property
    def servers(self) -> Mapping[str, int]:
        """The ports of PostgreSQL and nginx."""
        return self._ports

    async def talk(self, doors: DoorPorts, marker: str) -> list[Exchange]:
        """Write and read a table with psql, and get a page with curl."""
        rows = await self._query(doors["postgres"], _ORDERS_SQL.replace("MARKER", marker))
        if rows.splitlines() != ["seven apples", "a pear", marker]:
            raise UproxyError(f"psql read back other rows than it wrote: {rows!r}")
        page = await self._fetch(f"http://127.0.0.1:{doors['nginx']}/?for={marker}")
        if page != f"a page of nginx for {marker}":
            raise UproxyError(f"curl got another page than nginx has: {page!r}")
        return [
            Exchange("psql", "PostgreSQL", "created a table, wrote three rows, read them back"),
            Exchange("curl", "nginx", f"got {page!r}"),
        ]

    async def call(self, doors: DoorPorts, times: int) -> str:
        """Get pages with curl, which nginx has it do over a connection each."""
        url = f"http://127.0.0.1:{doors['nginx']}/?for=[1-{times}]"
        pages = await self._fetch(url, "--header", "Connection: close")
        if pages.splitlines() != [f"a page of nginx for {one}" for one in range(1, times + 1)]:
            raise UproxyError(f"curl got other pages than nginx has: {pages!r}")
        return "curl"

    async def open_session(self, doors: DoorPorts) -> AppSession:
        """Open a psql session."""
        session = PsqlSession(self._psql(doors["postgres"]), self._folder)
        await session.open()
        return session

    async def _start_postgres(self) -> None:
        """Make a database cluster and start PostgreSQL on it."""
        folder, port = self._make_folder("postgres"), self._ports["postgres"]
        data = folder / "data"
        await output_of(
            self._server("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                         "--locale=C", "--no-sync", "--no-instructions"),
            folder,
        )  # fmt: skip
        (data / "pg_hba.conf").write_text(_PG_HBA)
        program = await self._cleanup.enter_async_context(Program(
            self._server("postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port),
                         "-k", folder, "-c", "fsync=off", "-c", "shared_buffers=16MB",
                         stop=signal.SIGINT),
            folder,
        ))  # fmt: skip
        await program.until(
            lambda: any("ready to accept connections" in line for line in program.lines),
            "PostgreSQL is ready",
        )
        for statement in (
            f"create role {_CLIENT} login",
            f"create database {_CLIENT} owner {_CLIENT}",
        ):
            words = ("-X", "-q", "-h", folder, "-p", str(port), "-U", "postgres", "-c", statement)
            await output_of(self._server("psql", *words), folder)

    async def _start_nginx(self) -> None:
        """Start nginx with a single page."""
        folder, port = self._make_folder("nginx"), self._ports["nginx"]
        conf = folder / "nginx.conf"
        conf.write_text(_NGINX_CONF.format(folder=folder, port=port))
        conf.chmod(0o644)  # nginx may run as another user
        command = self._server("nginx", "-p", folder, "-c", conf, "-e", "stderr")
        program = await self._cleanup.enter_async_context(Program(command, folder))
        await program.until(lambda: listens(port), "nginx is ready")

    def _make_folder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(folder, self._user)
        return folder

    def _server(
        self, name: str, *words: str | Path, stop: signal.Signals = signal.SIGTERM
    ) -> ProgramCommand:
        argv = [self._programs[name], *words]
        return ProgramCommand(name, argv, user=self._user, stop_signal=stop)

    def _psql(self, port: int, *words: str) -> ProgramCommand:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        argv = [self._programs["psql"], "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                "-h", "127.0.0.1", "-p", str(port), "-U", _CLIENT, *words]  # fmt: skip
        return ProgramCommand("psql", argv, env=env, has_input=not words)

    async def _query(self, port: int, sql: str) -> str:
        return await output_of(self._psql(port, "-c", sql), self._folder)

    async def _fetch(self, url: str, *words: str) -> str:
        argv = [self._programs["curl"], "-q", "-sS", "--fail", "--noproxy", "*",
                "--max-time", "20", *words, url]  # fmt: skip
        return await output_of(ProgramCommand("curl", argv), self._folder)


class PsqlSession:
    """A psql process with one connection."""

    def __init__(self, command: ProgramCommand, folder: Path) -> None:
        self._psql = Program(command, folder)

    async def open(self) -> None:
        """Start psql."""
        await self._psql.__aenter__()

    async def ask(self) -> str:
        """Return the number of the PostgreSQL process that serves this connection."""
        before = len(self._psql.lines)
        await self._psql.write_input("select pg_backend_pid();\n")
        await self._psql.until(lambda: len(self._psql.lines) > before, "psql answers")
        return f"PostgreSQL's backend {self._psql.lines[before]}"

    async def close(self) -> None:
        """Stop psql."""
        await self._psql.__aexit__()


def find_programs() -> Mapping[str, str]:
    """Return the path of each program; some are outside PATH in Debian and Ubuntu.

    Raises:
        UproxyError: some are not installed; the message names their packages.
    """
    found = {name: _find(name) for name in _PACKAGES}
    missing = sorted({_PACKAGES[name] for name, path in found.items() if path is None})
    if missing:
        raise UproxyError(
            f"not installed: {' '.join(missing)}; install them (apt-get install …), "
            "or run `uproxy demo` without --apps real, which needs nothing"
        )
    return {name: path for name, path in found.items() if path is not None}


def _find(name: str) -> str | None:
    # the newest PostgreSQL first: its programs have to fit each other
    postgres = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(postgres, key=lambda path: path.parts[-2].zfill(8), reverse=True)
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([*map(str, newest_first), path, *_OFF_PATH]))


def _unprivileged_user() -> str | None:
    """Return the user as which servers run if we are root; None: our own user.

    Raises:
        UproxyError: there is no such user.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise UproxyError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
