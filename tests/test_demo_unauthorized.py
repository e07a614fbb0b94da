"""How a client tells that it was received, or how it was refused; the servers are Envoy's and
OpenSSL's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.helpers import traffic
from tests.helpers.background import background
from uproxy.demo import unauthorized
from uproxy.demo.unauthorized import connect_to_door
from uproxy.errors import UproxyError
from uproxy.identity.credentials import Svid
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy import EnvoyServer
from uproxy.lab.software.envoy_tunnels import TunnelTerminator
from uproxy.lab.software.peers import SServer

DB = "/ns/db/sa/orders"
FRONTEND = "/ns/web/sa/frontend"
NEWSLETTER = "/ns/web/sa/newsletter"
APP = "10.0.0.7:5432"


def svid(authority: Authority, path: str = FRONTEND) -> Svid:
    issued = authority.issue(path)
    return Svid(issued.spiffe_id, issued.chain, issued.key)


@pytest.fixture
def authority() -> Authority:
    return Authority("example.org")


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[SServer]:
    files = write_identity(tmp_path / "db", authority.issue(DB), authority.pem)
    with SServer(tmp_path, files, ("-rev", "-alpn", "h2")) as running:
        yield running


@pytest.fixture
def envoy(tmp_path: Path, authority: Authority) -> Iterator[TunnelTerminator]:
    files = write_identity(tmp_path / "db", authority.issue(DB), authority.pem)
    frontend, newsletter = (svid(authority, path).spiffe_id for path in (FRONTEND, NEWSLETTER))
    with (
        background(traffic.echo) as app,
        TunnelTerminator(
            tmp_path, files, target=app, allow=[frontend], trust=[newsletter]
        ) as running,
    ):
        yield running


async def test_who_is_received_sees_the_servers_certificate(
    envoy: TunnelTerminator, authority: Authority
) -> None:
    result = await connect_to_door(envoy.port, svid(authority), APP)
    assert result.refusal is None
    assert result.source.startswith("127.0.0.1:")
    assert result.certificate is not None
    sans = result.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert f"spiffe://example.org{DB}" in str(sans.value)


async def test_intermediates_are_shown_too(envoy: TunnelTerminator, authority: Authority) -> None:
    result = await connect_to_door(envoy.port, svid(authority.intermediate()), APP)
    assert result.refusal is None


async def test_who_is_believed_and_not_allowed_sees_the_status(
    envoy: TunnelTerminator, authority: Authority
) -> None:
    result = await connect_to_door(envoy.port, svid(authority, NEWSLETTER), APP)
    assert result.refusal == f"403 to its CONNECT {APP}"
    assert result.certificate is not None


async def test_a_server_that_does_not_agree_to_http2_is_told_as_that(
    tmp_path: Path, authority: Authority
) -> None:
    files = write_identity(tmp_path / "db", authority.issue(DB), authority.pem)
    with SServer(tmp_path, files) as server:
        result = await connect_to_door(server.port, svid(authority), APP)
    assert result.refusal == "no HTTP/2"


async def test_a_server_that_breaks_http2_is_told_as_that(
    tmp_path: Path, authority: Authority
) -> None:
    files = write_identity(tmp_path / "db", authority.issue(DB), authority.pem)
    caller, tls = svid(authority), {"common_tls_context": {"alpn_protocols": ["h2"]}}

    async def send_data_of_no_stream(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(bytes(9))
        await reader.read()  # what is unread at the end makes a reset of it

    with (
        background(send_data_of_no_stream) as app,
        EnvoyServer(tmp_path, files, target=app, allow=[caller.spiffe_id], tls=tls) as server,
    ):
        assert (await connect_to_door(server.port, caller, APP)).refusal == "no HTTP/2"


async def test_who_has_no_certificate_sees_an_alert(server: SServer) -> None:
    result = await connect_to_door(server.port, None, APP)
    assert result.refusal == "alert certificate_required"


async def test_who_is_not_believed_sees_an_alert(server: SServer) -> None:
    result = await connect_to_door(server.port, svid(Authority("stranger.test")), APP)
    assert result.refusal == "alert unknown_ca"


async def test_a_reset_is_told_as_one() -> None:
    async with traffic.serving(traffic.reset_after(4)) as app:
        result = await connect_to_door(app, None, APP)
    assert (result.refusal, result.certificate) == ("connection reset", None)


async def test_a_server_that_only_closes_is_told_as_that() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write_eof()
        await reader.read()

    async with traffic.serving(close) as app:
        assert (await connect_to_door(app, None, APP)).refusal == "connection closed"


async def test_a_server_that_speaks_no_tls_is_told_as_that() -> None:
    async with traffic.serving(traffic.echo) as app:
        assert (await connect_to_door(app, None, APP)).refusal is not None


async def test_a_door_that_is_not_there_is_told() -> None:
    with pytest.raises(UproxyError, match="can't be reached"):
        await connect_to_door(free_port(), None, APP)


async def test_a_door_that_says_nothing_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unauthorized, "TIMEOUT_S", 0.1)
    async with traffic.serving(traffic.never_read) as app:
        with pytest.raises(UproxyError, match="neither answered nor refused"):
            await connect_to_door(app, None, APP)
