"""Sessions: what a handshake lets pass, and what a connection carries."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.helpers.tls_sessions import (
    OURS,
    PEER,
    accept,
    agreed_protocol,
    pair,
    plan,
    shake,
    shaken,
)
from uproxy.config.leaves import CIPHERS_12, CIPHERS_13
from uproxy.contract import PeerSvid, Refusal, RefusedError, VerifyPeer
from uproxy.errors import IdentityError, UntrustedError
from uproxy.lab.pki import Authority, Issued
from uproxy.libssl import RECEIVE_SIZE, Session, TlsError, callbacks, context_of
from uproxy.libssl.binding import lib
from uproxy.model import Alert, Outcome, Role, TlsSettings

VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}


# Handshakes.


def test_the_default_is_tls_1_3_with_the_post_quantum_group() -> None:
    client, server = shaken()
    expected = ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519MLKEM768")
    assert client.negotiated == server.negotiated == expected


@pytest.mark.parametrize(("group", "name"), [("X25519", "x25519"), ("P-256", "secp256r1")])
def test_a_peer_without_it_agrees_on_a_classic_group(group: str, name: str) -> None:
    client, _server = shaken(plan(Role.CLIENT, settings=TlsSettings(groups=(group,))))
    assert client.negotiated[2] == name


def test_a_group_that_is_not_in_the_settings_is_not_agreed_on() -> None:
    with pytest.raises(TlsError, match="no group in common"):
        shaken(plan(Role.CLIENT, settings=TlsSettings(groups=("P-384",))))


def test_nobody_without_an_acceptance_of_this_handshake_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if OpenSSL were content without asking."""
    client, server = pair()
    monkeypatch.setattr(Session, "verify_result", lambda _self: 0)
    monkeypatch.setattr(Session, "on_message", lambda _self, _version, _message: None)
    with pytest.raises(TlsError, match="without a verified peer"):
        shake(client, server)
    assert (client.peer, server.peer) == (None, None)


def test_a_peer_is_judged_once_though_openssl_asks_several_times() -> None:
    asked: list[tuple[bytes, ...]] = []

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        asked.append(chain)
        return accept(chain)

    deep = OURS.intermediate().intermediate().issue()
    shaken(plan(Role.CLIENT, deep), plan(Role.SERVER, verify=verify))
    assert asked == [deep.der]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_judged_chain_is_what_was_presented_and_openssl_goes_by_the_leaf(version: str) -> None:
    asked: list[tuple[bytes, ...]] = []

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        asked.append(chain)
        return accept(chain)

    inner = OURS.intermediate().issue()
    stray = Authority("stray.test").certificate
    leaf, intermediate = inner.chain
    shows = Issued((leaf, stray, intermediate), inner.key)
    settings = TlsSettings(min_version=version)
    server = plan(Role.SERVER, verify=verify, settings=settings)
    lib.SSL_CTX_set_max_proto_version(context_of(server).pointer, VERSIONS[version])
    _, there = shaken(plan(Role.CLIENT, shows, settings=settings), server)
    assert asked == [shows.der]
    assert lib.sk_X509_num(lib.SSL_get0_verified_chain(there._ssl)) == 1


def test_nothing_but_the_leaf_stays_in_memory_of_what_was_presented() -> None:
    client, server = shaken(plan(Role.CLIENT, OURS.intermediate().issue()))
    assert lib.sk_X509_num(lib.SSL_get_peer_cert_chain(server._ssl)) == 0  # the leaf is apart
    assert lib.sk_X509_num(lib.SSL_get_peer_cert_chain(client._ssl)) == 1


def refusing(error: Exception) -> VerifyPeer:
    def verify(_chain: tuple[bytes, ...]) -> PeerSvid:
        raise error

    return verify


@pytest.mark.parametrize("alert", list(Alert))
def test_a_refusal_becomes_the_alert_it_names(alert: Alert) -> None:
    refusal = UntrustedError("X5-1", "not this one", alert)
    client, server = pair(server=plan(Role.SERVER, verify=refusing(refusal)))
    with pytest.raises(UntrustedError, match="not this one"):
        shake(client, server)
    with pytest.raises(TlsError) as heard:
        client.decrypt(server.take_output())
    assert heard.value.alert == alert.value
    assert heard.value.reason == f"peer sent alert {alert.name.replace('_', ' ').lower()}"
    assert server.peer is None


@pytest.mark.parametrize(
    "error",
    [RefusedError(Refusal(Outcome.PEER_UNEXPECTED, "another")), RuntimeError("a defect")],
)
def test_whatever_a_verifier_raises_comes_out_and_lets_nobody_in(error: Exception) -> None:
    client, server = pair(client=plan(Role.CLIENT, verify=refusing(error)))
    with pytest.raises(type(error), match=str(error)):
        shake(client, server)
    with pytest.raises(TlsError, match="peer sent alert certificate unknown"):
        server.handshake(client.take_output())


def test_a_failed_handshake_leaves_nothing_for_the_next_one() -> None:
    refusal = UntrustedError("X5-1", "not this one", Alert.UNKNOWN_CA)
    client, server = pair(server=plan(Role.SERVER, verify=refusing(refusal)))
    with pytest.raises(UntrustedError):
        shake(client, server)
    good_client, good_server = pair()
    assert good_server.take_output() == b""
    shake(good_client, good_server)
    good_client.encrypt(b"clean")
    assert bytes(good_server.decrypt(good_client.take_output())) == b"clean"


def test_application_bytes_behind_the_finished_are_kept() -> None:
    client, server = pair()
    client.handshake()
    server.handshake(client.take_output())
    assert client.handshake(server.take_output())
    client.encrypt(b"early")
    client.finish()
    assert server.handshake(client.take_output())
    assert server.early == b"early"
    assert server.ended


# Application data.


def test_bytes_pass_in_pieces_of_any_size() -> None:
    client, server = shaken()
    client.decrypt(server.take_output())
    payload = bytes(range(256)) * 400
    client.encrypt(memoryview(payload))
    ciphertext = client.take_output()
    heard = bytearray()
    for at in range(0, len(ciphertext), 1000):
        heard += server.decrypt(ciphertext[at : at + 1000])
    assert heard == payload


def test_a_whole_receive_is_consumed_at_once() -> None:
    client, server = shaken()
    client.encrypt(bytes(200_000))
    ciphertext = client.take_output()
    size = 0
    for at in range(0, len(ciphertext), RECEIVE_SIZE):
        size += len(server.decrypt(ciphertext[at : at + RECEIVE_SIZE]))
    assert size == 200_000


def test_the_callers_buffer_may_change_after_the_call() -> None:
    client, server = shaken()
    client.encrypt(b"first")
    shared = bytearray(client.take_output())
    half = len(shared) // 2
    assert bytes(server.decrypt(memoryview(shared)[:half])) == b""
    rest = bytes(shared[half:])
    shared[:] = bytes(len(shared))
    assert bytes(server.decrypt(rest)) == b"first"


def test_each_direction_ends_by_itself() -> None:
    client, server = shaken()
    client.finish()
    assert bytes(server.decrypt(client.take_output())) == b""
    assert server.ended
    server.encrypt(b"still here")
    assert bytes(client.decrypt(server.take_output())) == b"still here"
    assert not client.ended
    with pytest.raises(TlsError):
        client.encrypt(b"after the end")


def test_what_comes_behind_a_close_notify_is_ignored() -> None:
    client, server = shaken()
    client.encrypt(b"last words")
    client.finish()
    heard = bytes(server.decrypt(client.take_output() + b"\x17\x03\x03\x00\x05noise"))
    assert heard == b"last words"
    assert bytes(server.decrypt(b"more noise")) == b""


def test_a_tampered_record_is_an_error() -> None:
    client, server = shaken()
    client.encrypt(b"intact")
    ciphertext = bytearray(client.take_output())
    ciphertext[-1] ^= 1
    with pytest.raises(TlsError, match="decryption failed or bad record mac"):
        server.decrypt(ciphertext)


def test_taking_output_takes_it_all() -> None:
    client, server = shaken()
    server.encrypt(bytes(100_000))
    assert len(server.take_output()) > 100_000
    assert server.take_output() == b""
    assert client.take_output() == b""


def test_alpn_is_agreed_by_the_servers_preference() -> None:
    client, server = shaken(
        plan(Role.CLIENT, alpn=("http/1.1", "h2")), plan(Role.SERVER, alpn=("h2", "http/1.1"))
    )
    assert agreed_protocol(client) == agreed_protocol(server) == b"h2"


def test_alpn_without_a_common_name_is_an_error_in_words() -> None:
    with pytest.raises(TlsError, match=r"no application protocol \(ALPN\) in common"):
        shaken(plan(Role.CLIENT, alpn=("h2",)), plan(Role.SERVER, alpn=("postgresql",)))


def test_a_session_belongs_to_its_memory_only() -> None:
    """Nothing of a session is left when it goes (the addresses of dead ones are reused)."""
    for _ in range(50):
        shaken()
    gc.collect()
    assert callbacks.in_handshake == {}


def test_an_idle_session_holds_no_buffer_of_what_it_has_carried() -> None:
    client_plan, server_plan = plan(Role.CLIENT, PEER), plan(Role.SERVER)

    def used() -> tuple[Session, Session]:
        ends = shaken(client_plan, server_plan)
        for one, other in (ends, ends[::-1]):
            other.decrypt(one.take_output())
            one.encrypt(bytes(60_000))
            output = one.take_output()
            other.decrypt(output[:40_000])  # in the middle of a record
            other.decrypt(output[40_000:])
        return ends

    idle = [used() for _ in range(50)]
    before = resident()
    idle += [used() for _ in range(200)]
    # 34 KiB as measured; 67 without SSL_MODE_RELEASE_BUFFERS, more with a BIO that has grown
    assert (resident() - before) / 400 < 50 * 1024


def resident() -> int:
    """Bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_every_suite_that_the_configuration_knows_is_understood() -> None:
    settings = TlsSettings(min_version="1.2", ciphers=CIPHERS_13 + CIPHERS_12)
    client, server = pair(plan(Role.CLIENT, PEER, settings=settings), plan(Role.SERVER))
    shake(client, server)
    assert server.negotiated[0] == "TLSv1.3"


def test_a_server_name_that_can_not_be_sent_is_refused_and_not_left_out() -> None:
    """OpenSSL takes 255 letters."""
    context = context_of(plan(Role.CLIENT))
    Session(context, "a" * 255)
    with pytest.raises(IdentityError, match="OpenSSL refused the server's name aaa"):
        Session(context, "a" * 256)
