"""Applications that nobody here wrote: PostgreSQL with psql, nginx with curl.

They come from the distribution and run with folders, ports and a user of their own; a
server that the machine already runs is not touched.  Rules: as root they are somebody else,
because PostgreSQL insists; the database's superuser is reachable through a folder that only
it can enter; the user that psql is over TCP may do nothing but use its own database.
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

from uproxy.demo.apps import Doors, Exchange, Session
from uproxy.demo.processes import Command, Program, output_of
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
_OFF_PATH = ("/usr/local/sbin", "/usr/sbin")
"""Where Debian and Ubuntu put nginx, and ordinary users don't look."""
_CLIENT = "web"
"""Role and database of psql."""

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
        """`folder` is ours to make folders in.

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
        """Start both.

        Raises:
            UproxyError: one of them doesn't want to.
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
        """Stop both."""
        await self._cleanup.aclose()

    @property
    def servers(self) -> Mapping[str, int]:
        """Two."""
        return self._ports

    async def talk(self, doors: Doors, marker: str) -> list[Exchange]:
        """A table with rows, and a page."""
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

    async def open_session(self, doors: Doors) -> Session:
        """A psql that waits for more to do."""
        session = PsqlSession(self._psql(doors["postgres"]), self._folder)
        await session.open()
        return session

    async def _start_postgres(self) -> None:
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
        folder, port = self._make_folder("nginx"), self._ports["nginx"]
        conf = folder / "nginx.conf"
        conf.write_text(_NGINX_CONF.format(folder=folder, port=port))
        conf.chmod(0o644)  # nginx isn't who we are, whatever the umask
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
    ) -> Command:
        argv = [self._programs[name], *words]
        return Command(name, argv, user=self._user, stop_signal=stop)

    def _psql(self, port: int, *words: str) -> Command:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        argv = [self._programs["psql"], "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                "-h", "127.0.0.1", "-p", str(port), "-U", _CLIENT, *words]  # fmt: skip
        return Command("psql", argv, env=env, has_input=not words)

    async def _query(self, port: int, sql: str) -> str:
        return await output_of(self._psql(port, "-c", sql), self._folder)

    async def _fetch(self, url: str) -> str:
        argv = [self._programs["curl"], "-q", "-sS", "--fail", "--noproxy", "*",
                "--max-time", "20", url]  # fmt: skip
        return await output_of(Command("curl", argv), self._folder)


class PsqlSession:
    """psql, one connection, statement after statement."""

    def __init__(self, command: Command, folder: Path) -> None:
        self._psql = Program(command, folder)

    async def open(self) -> None:
        """Start it."""
        await self._psql.__aenter__()

    async def ask(self) -> str:
        """The process that serves this connection, as PostgreSQL numbers it."""
        heard = len(self._psql.lines)
        await self._psql.say("select pg_backend_pid();\n")
        await self._psql.until(lambda: len(self._psql.lines) > heard, "psql answers")
        return f"PostgreSQL's backend {self._psql.lines[heard]}"

    async def close(self) -> None:
        """End it."""
        await self._psql.__aexit__()


def find_programs() -> Mapping[str, str]:
    """Where everything is that is needed; some of it is off PATH in Debian and Ubuntu.

    Raises:
        UproxyError: something isn't installed; names the packages.
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
    """Who the servers are when we are root.

    Raises:
        UproxyError: there is nobody.
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
