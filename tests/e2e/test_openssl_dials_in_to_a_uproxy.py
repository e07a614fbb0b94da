"""The distribution's `openssl s_client` dials a running uProxy: who gets in, who is told what.

Every ending is read in three places: what s_client says, uProxy's access log, its counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.dialogue import refused, s_client
from tests.helpers.endings import ended, handshakes, metric, only
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    FileWorld,
    Identities,
    Inbound,
)
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.software.peers import SServer
from uproxy.lab.waiting import wait_until

HOUR = timedelta(hours=1)
VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}
FRONTEND = "/ns/web/sa/frontend"


@pytest.fixture(scope="module")
def door(folder: Path, world: Identities, echo_app: int) -> Iterator[Inbound]:
    """As configured by default: TLS 1.3 only."""
    with Inbound(folder, world.ours(ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture(scope="module")
def classic(folder: Path, file_world: FileWorld, echo_app: int) -> Iterator[Inbound]:
    """TLS 1.2 is asked for."""
    tls = {"min_version": "1.2"}
    with Inbound(folder, file_world.ours(ORDERS), echo_app, tls=tls) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture(scope="module")
def by_files(folder: Path, file_world: FileWorld, echo_app: int) -> Iterator[Inbound]:
    with Inbound(folder, file_world.ours(ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def talk(port: int, identity: IdentityFiles, *options: str | Path, answer: str = "hello") -> str:
    """One line there and back, then an orderly end; what s_client said."""
    with s_client(port, identity, *options) as client:
        client.type(b"hello\n")
        # what s_client says of a ticket may stand before it on the line
        client.receive(f"(?m){answer}$")
        return client.end()


def alert(said: str) -> int | None:
    """The number of the alert that s_client was sent."""
    found = re.search(r"SSL alert number (\d+)", said)
    return None if found is None else int(found.group(1))


def test_it_talks_over_tls_1_3(world: Identities, door: Inbound) -> None:
    before = handshakes(door, version="TLSv1.3", group="x25519", direction="inbound")

    with ended(door, "closed") as lines:
        # named, because an OpenSSL of 3.5 or later would take X25519MLKEM768
        said = talk(door.port, world.theirs(WEB), "-groups", "X25519")

    assert "New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256" in said
    # "Server Temp Key" before OpenSSL 3.5
    assert re.search(r"(Server|Peer) Temp Key: X25519\b", said)
    line = only(lines)
    assert (line["src.identity"], line["dst.identity"]) == (WEB, ORDERS)
    assert (line["bytes_recv"], line["bytes_sent"], line["rule"]) == (6, 6, "callers")
    after = handshakes(door, version="TLSv1.3", group="x25519", direction="inbound")
    assert after == before + 1
    decided = {"rule": "callers", "decision": "allow"}
    assert metric(door, "uproxy_authorization_decisions_total", **decided) >= 1


def test_tls_1_2_is_refused_unless_it_is_asked_for(
    file_world: FileWorld, by_files: Inbound, classic: Inbound
) -> None:
    with ended(by_files, "handshake_failed") as lines:
        said = refused(by_files.port, file_world.theirs(WEB), "-tls1_2")
    assert alert(said) == 70  # protocol_version
    assert "version" in only(lines)["error"]

    with ended(classic, "closed") as lines:
        said = talk(classic.port, file_world.theirs(WEB), "-tls1_2")
    assert "New, TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256" in said
    assert only(lines)["src.identity"] == WEB


@pytest.mark.parametrize("engine", ["python", "native"])
def test_it_hands_out_no_tickets(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    web = file_world.theirs(WEB)
    with Inbound(folder, file_world.ours(ORDERS), echo_app, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        said = talk(uproxy.port, web, "-tls1_3", "-msg")
    assert "Finished" in said
    assert "NewSessionTicket" not in said

    with SServer(folder, file_world.theirs(ORDERS), options=("-rev", "-tls1_3")) as server:
        assert "NewSessionTicket" in talk(server.port, web, "-tls1_3", "-msg", answer="olleh")


def kept_session(file_world: FileWorld, uproxy: Inbound, version: str, folder: Path) -> Path:
    """A session that s_client may offer: uProxy gives none, so it is one of a server with the
    same identity that does resume."""
    session = folder / f"session{version}"
    web = file_world.theirs(WEB)
    with ended(uproxy, "closed"):
        talk(uproxy.port, web, version, "-sess_out", session)
    assert not session.exists()
    with SServer(folder, file_world.theirs(ORDERS), options=("-rev", version)) as server:
        talk(server.port, web, version, "-sess_out", session, answer="olleh")
        assert "Reused" in talk(server.port, web, version, "-sess_in", session, answer="olleh")
    return session


@pytest.mark.parametrize("version", VERSIONS)
def test_it_resumes_nothing(
    file_world: FileWorld, classic: Inbound, tmp_path: Path, version: str
) -> None:
    """A caller that offers a session is served, from a full handshake, and verified."""
    session = kept_session(file_world, classic, version, tmp_path)
    before = handshakes(classic, version=VERSIONS[version])

    with ended(classic, "closed") as lines:
        said = talk(classic.port, file_world.theirs(WEB), version, "-sess_in", session)

    assert f"New, {VERSIONS[version]}" in said
    assert "Reused" not in said
    assert handshakes(classic, version=VERSIONS[version]) == before + 1
    assert only(lines)["src.identity"] == WEB


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_opens_no_door_to_somebody_else(
    file_world: FileWorld, classic: Inbound, tmp_path: Path, version: str
) -> None:
    """The session of a trusted caller, offered with an untrusted certificate."""
    session = kept_session(file_world, classic, version, tmp_path)

    with ended(classic, "peer_untrusted", rule="X5-17"):
        said = refused(classic.port, file_world.theirs(STRANGER), version, "-sess_in", session)

    assert "Reused" not in said
    assert alert(said) == 48  # unknown_ca


def test_without_a_certificate_it_is_refused(door: Inbound) -> None:
    with ended(door, "handshake_failed") as lines:
        said = refused(door.port, None)

    assert alert(said) == 116  # certificate_required
    assert only(lines)["error"] == "the peer showed no certificate"


def test_from_another_trust_domain_it_is_refused(world: Identities, door: Inbound) -> None:
    with ended(door, "peer_untrusted", rule="X5-17") as lines:
        said = refused(door.port, world.theirs(STRANGER))

    assert alert(said) == 48  # unknown_ca
    assert "no bundle for the trust domain stranger.test" in only(lines)["error"]


def test_signed_by_a_ca_of_the_same_name_it_is_refused(
    world: Identities, door: Inbound, tmp_path: Path
) -> None:
    bundle = world.theirs(WEB).bundle
    impostor = Authority("example.org").issue(FRONTEND)
    svid, key = tmp_path / "svid.pem", tmp_path / "svid.key"
    svid.write_bytes(impostor.pem)
    key.write_bytes(impostor.key_pem)

    with ended(door, "peer_untrusted", rule="X5-14") as lines:
        said = refused(door.port, IdentityFiles(svid, key, bundle))

    assert alert(said) == 48  # unknown_ca
    assert only(lines)["src.identity"] is None


def test_a_caller_whom_no_rule_allows_sees_a_reset(world: Identities, door: Inbound) -> None:
    default = {"rule": "-", "decision": "deny"}
    before = metric(door, "uproxy_authorization_decisions_total", **default)

    with ended(door, "denied") as lines:
        said = refused(door.port, world.theirs(UNWANTED))

    assert "errno=104" in said
    assert only(lines)["src.identity"] == UNWANTED
    assert metric(door, "uproxy_authorization_decisions_total", **default) == before + 1


@pytest.mark.parametrize(
    ("name", "number", "rule", "words"),
    [
        ("expired", 45, "X5-14", "expired at"),
        ("not valid yet", 45, "X5-14", "not valid before"),
        ("two identities", 42, "X5-2", "2 URI names"),
        ("a signing certificate", 42, "X5-8", "signing certificate"),
        ("the CA itself", 42, "X5-8", "signing certificate"),
    ],
)
def test_a_defective_certificate_is_refused(
    file_world: FileWorld, by_files: Inbound, name: str, number: int, rule: str, words: str
) -> None:
    identity = file_world.write(name.replace(" ", "-"), defective(file_world.ca, name))

    with ended(by_files, "peer_untrusted", rule=rule) as lines:
        said = refused(by_files.port, identity)

    assert alert(said) == number
    assert words in only(lines)["error"]
    assert metric(by_files, "uproxy_handshake_failures_total", rule=rule) >= 1


def defective(ca: Authority, name: str) -> Issued:
    match name:
        case "expired":
            return ca.issue(FRONTEND, not_before=ca.now - 2 * HOUR, not_after=ca.now - HOUR)
        case "not valid yet":
            return ca.issue(FRONTEND, not_before=ca.now + HOUR, not_after=ca.now + 2 * HOUR)
        case "two identities":
            return ca.issue(uris=(WEB, ORDERS))
        case "a signing certificate":
            return ca.issue(FRONTEND, ca=True, key_usage=("key_cert_sign",))
    return Issued((ca.certificate,), ca.key)


def test_the_applications_end_is_an_orderly_end(
    folder: Path, file_world: FileWorld, tmp_path: Path
) -> None:
    """The end of an application that speaks first, and ends first, comes with close_notify."""
    with (
        background(traffic.send_content(1000)) as speaker,
        Inbound(folder, file_world.ours(ORDERS), speaker) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed") as lines,
            s_client(uproxy.port, file_world.theirs(WEB)) as client,
        ):
            said = client.receive_until_end()

    assert said.endswith("closed\n")
    assert "errno" not in said
    assert only(lines)["bytes_sent"] == 1000


def test_killed_it_leaves_a_reset(world: Identities, door: Inbound) -> None:
    """A TCP end without a close_notify may be anybody's: it is no end of the data."""
    with (
        ended(door, "reset") as lines,
        s_client(door.port, world.theirs(WEB)) as client,
    ):
        client.type(b"hello\n")
        client.receive("(?m)^hello$")
        client.kill()
        wait_until(lambda: metric(door, "uproxy_connections") == 0, "the connection's end")

    line = only(lines)
    assert "without a close_notify" in line["error"]
    assert (line["bytes_recv"], line["src.identity"]) == (6, WEB)
