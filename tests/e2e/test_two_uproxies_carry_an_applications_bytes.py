"""Two `uproxy run` with identities from files stand between an application and its client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.helpers import traffic
from tests.helpers.apps import Postgres
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually

WEB = "spiffe://example.org/ns/web/sa/frontend"
DB = "spiffe://example.org/ns/db/sa/orders"
MIB = 1 << 20


def by_files(files: IdentityFiles) -> dict[str, Any]:
    bundles = {"example.org": str(files.bundle)}
    return {"files": {"svid": str(files.svid), "key": str(files.key), "bundles": bundles}}


class Pair:
    """The application's uProxy and the client's; `port` is where the client dials."""

    def __init__(self, folder: Path, app_port: int, allowed: str) -> None:
        ca = Authority("example.org")
        web = write_identity(folder / "web", ca.issue("/ns/web/sa/frontend"), ca.pem)
        db = write_identity(folder / "db", ca.issue("/ns/db/sa/orders"), ca.pem)
        self.port, between = free_port(), free_port()
        self.inbound = Uproxy(
            {
                "identity": by_files(db),
                "inbound": [
                    {"listen": f"127.0.0.1:{between}", "transport": "mtls",
                     "to": f"127.0.0.1:{app_port}"},
                ],
                "authorization": [
                    {"name": "callers", "action": "allow", "from": {"identities": [allowed]}}
                ],
            },
            folder / "inbound",
        )  # fmt: skip
        self.outbound = Uproxy(
            {
                "identity": by_files(web),
                "outbound": [{"listen": f"127.0.0.1:{self.port}", "to": "db"}],
                "destinations": {
                    "db": {"addresses": [f"127.0.0.1:{between}"], "transport": "mtls",
                           "identities": [DB]},
                },
            },
            folder / "outbound",
        )  # fmt: skip

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for uproxy in (self.inbound, self.outbound):
                stack.enter_context(uproxy)
                uproxy.wait_until_ready()
            self._running = stack.pop_all()
        return self

    def __exit__(self, *why: object) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


async def test_bytes_arrive_and_both_logs_tell_who_talked(tmp_path: Path) -> None:
    async with traffic.serving(traffic.echo) as app:
        with Pair(tmp_path, app, WEB) as pair:
            await traffic.exchange(pair.port, 4 * MIB + 1)
            for uproxy in (pair.inbound, pair.outbound):
                await eventually(lambda: uproxy.accesses, "an access line")  # noqa: B023  at once
                (line,) = uproxy.accesses
                assert line["src.identity"] == WEB
                assert line["dst.identity"] == DB
                assert (line["outcome"], line["bytes_sent"]) == ("closed", 4 * MIB + 1)
                assert line["bytes_recv"] == 4 * MIB + 1


async def test_a_caller_who_is_not_allowed_gets_nothing(tmp_path: Path) -> None:
    async with traffic.serving(traffic.echo) as app:
        with Pair(tmp_path, app, "spiffe://example.org/ns/web/sa/somebody-else") as pair:
            with pytest.raises((AssertionError, OSError)):
                await traffic.exchange(pair.port, 1000)
            await eventually(lambda: pair.inbound.accesses, "an access line")
            (line,) = pair.inbound.accesses
            assert (line["outcome"], line["src.identity"]) == ("denied", WEB)


def test_postgresql_answers_through_both(tmp_path: Path, postgres: Postgres) -> None:
    with Pair(tmp_path, postgres.port, WEB) as pair:
        assert postgres.psql("select sum(n) from generate_series(1, 1000) n", pair.port) == "500500"


def test_sigterm_ends_an_idle_uproxy_with_0(tmp_path: Path) -> None:
    with Pair(tmp_path, free_port(), WEB) as pair:
        assert pair.outbound.stop() == 0
