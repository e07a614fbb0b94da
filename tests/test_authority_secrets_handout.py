"""Which secrets each Envoy gets, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from uproxy.authority import CallingProcess, Definition, DomainDefinition, EntryDefinition
from uproxy.authority.calls import NOTHING, CallRefusedError, Reply
from uproxy.authority.discovery_messages import SECRET_TYPE
from uproxy.authority.handout import DomainSet
from uproxy.authority.secrets_handout import SecretStream, fetch_secrets, secrets_for
from uproxy.identity.workload_api.framing import Status
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.protobuf import read_fields, write_fields
from uproxy.spiffe.svid import claimed_identity

ME = CallingProcess(1, 1000, 100, None)
NOBODY = CallingProcess(1, 1, 1, None)
NOW = datetime.now(UTC).replace(microsecond=0)
A, B = "spiffe://home.test/a", "spiffe://home.test/b"


def domain(name: str, *federates_with: str) -> DomainDefinition:
    entries = tuple(EntryDefinition(f"spiffe://{name}/{each}", uid=1000) for each in "ba")
    return DomainDefinition(name, entries, federates_with=federates_with)


DEFINITION = Definition(
    {
        "home.test": domain("home.test", "away.test"),
        "away.test": replace(domain("away.test"), intermediate=True),
        "other.test": domain("other.test"),
    }
)
WORLD = DomainSet(DEFINITION, NOW)


def fields(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for number, _, payload in read_fields(data, "it"):
        found.setdefault(number, []).append(payload)
    return found


def only(data: bytes, *path: int) -> bytes:
    """What lies at the end of these field numbers, of which each occurs once."""
    for number in path:
        (data,) = fields(data)[number]
    return data


def get(*names: str, trust_domain: str = "home.test") -> list[bytes]:
    return list(secrets_for(WORLD, trust_domain, ME, names))


def certificate_of(secret: bytes) -> tuple[str, str, int]:
    """The secret's name, the SPIFFE ID of its certificate, and how long its chain is."""
    chain = x509.load_pem_x509_certificates(only(secret, 2, 1, 2))
    key = load_pem_private_key(only(secret, 2, 2, 2), None)
    assert key.public_key() == chain[0].public_key()
    return only(secret, 1).decode(), str(claimed_identity(chain[0])), len(chain)


def validation_of(secret: bytes) -> tuple[str, dict[str, int]]:
    """The secret's name, and the number of roots of each trust domain."""
    domains = fields(only(secret, 4, 12, 2, 2))[1]
    return only(secret, 1).decode(), {
        only(each, 1).decode(): len(x509.load_pem_x509_certificates(only(each, 2, 2)))
        for each in domains
    }


def test_a_certificate_has_the_name_that_was_asked_for() -> None:
    assert [certificate_of(each) for each in get("default", A)] == [("default", B, 1), (A, A, 1)]
    (away,) = get("default", trust_domain="away.test")
    assert certificate_of(away) == ("default", "spiffe://away.test/b", 2)


def test_peers_are_checked_with_the_roots_of_one_domain_or_of_each_its_own() -> None:
    found = [validation_of(each) for each in get("ROOTCA", "ALL", "spiffe://away.test")]
    assert found == [
        ("ROOTCA", {"home.test": 1}),
        ("ALL", {"away.test": 1, "home.test": 1}),
        ("spiffe://away.test", {"away.test": 1}),
    ]


def test_without_a_name_everything_comes_once() -> None:
    names = [only(each, 1).decode() for each in get()]
    assert names == ["spiffe://home.test", "spiffe://away.test", B, A]


@pytest.mark.parametrize("name", ["spiffe://home.test/c", "spiffe://other.test", "root", "all"])
def test_what_a_caller_may_not_have_refuses_it_all(name: str) -> None:
    with pytest.raises(CallRefusedError, match="not authorized") as caught:
        get("default", name)
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_without_an_entry_there_are_no_secrets() -> None:
    for names in ((), ("default",), ("ALL",)):
        with pytest.raises(CallRefusedError, match="no identity issued") as caught:
            secrets_for(WORLD, "home.test", NOBODY, names)
        assert caught.value.status is Status.PERMISSION_DENIED


def test_a_single_request_is_answered_without_a_nonce() -> None:
    data = fetch_secrets(WORLD, "home.test", ME, asking("default"))
    (any_,) = fields(data)[2]
    assert certificate_of(only(any_, 2))[1] == B
    assert 5 not in fields(data)


@pytest.mark.parametrize("data", [b"\xff", write_fields([(4, b"type.googleapis.com/other")])])
def test_what_is_no_request_for_secrets_is_an_invalid_argument(data: bytes) -> None:
    with pytest.raises(CallRefusedError) as caught:
        fetch_secrets(WORLD, "home.test", ME, data)
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert SecretStream(lambda names: (), "me").received(data).end is not None


def asking(*names: str, version: str = "", nonce: str = "", error: str | None = None) -> bytes:
    pairs = [(3, name.encode()) for name in names] + [(4, SECRET_TYPE.encode())]
    pairs += [(number, text.encode()) for number, text in ((1, version), (5, nonce)) if text]
    if error is not None:
        pairs.append((6, write_fields([(2, error.encode())])))
    return write_fields(pairs)


class Client:
    """An Envoy on one stream, whose secrets a test replaces."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {"a": b"a1", "b": b"b1"}
        self.stream = SecretStream(self._secrets, "the Envoy")

    def _secrets(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        try:
            return tuple(self.secrets[name] for name in names)
        except KeyError as error:
            raise CallRefusedError(Status.INVALID_ARGUMENT, str(error)) from error


def said(reply: Reply) -> tuple[list[bytes], str, str]:
    """The secrets in a reply, its version and nonce."""
    assert reply.message is not None
    assert reply.end is None
    found = fields(reply.message)
    secrets = [only(each, 2) for each in found[2]]
    return secrets, found[1][0].decode(), found[5][0].decode()


def test_a_stream_sends_what_was_asked_for_and_again_what_has_changed() -> None:
    client = Client()
    assert client.stream.started() is client.stream.changed() is NOTHING
    assert said(client.stream.received(asking("a"))) == ([b"a1"], "1", "1")
    assert client.stream.received(asking("a", version="1", nonce="1")) is NOTHING
    client.secrets["b"] = b"b2"
    assert client.stream.changed() is NOTHING
    client.secrets["a"] = b"a2"
    assert said(client.stream.changed()) == ([b"a2"], "2", "2")
    assert client.stream.changed() is NOTHING


def test_other_names_are_answered_at_once() -> None:
    client = Client()
    client.stream.received(asking("a"))
    reply = client.stream.received(asking("a", "b", version="1", nonce="1"))
    assert said(reply) == ([b"a1", b"b1"], "2", "2")
    assert client.stream.received(asking("b", "a", version="2", nonce="2")) is NOTHING


def test_an_answer_to_an_older_response_is_ignored() -> None:
    client = Client()
    client.stream.received(asking("a"))
    client.secrets["a"] = b"a2"
    client.stream.changed()
    assert client.stream.received(asking("b", version="1", nonce="1")) is NOTHING
    assert said(client.stream.received(asking("b", version="2", nonce="2")))[0] == [b"b1"]


def test_what_is_rejected_is_logged_and_sent_again_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client()
    client.stream.received(asking("a"))
    reply = client.stream.received(asking("a", nonce="1", error="no such key"))
    assert reply is NOTHING
    assert caplog.messages == ["the Envoy rejects its secrets: no such key"]
    client.secrets["a"] = b"a2"
    assert said(client.stream.changed()) == ([b"a2"], "2", "2")


def test_a_stream_ends_with_what_it_may_not_have_any_more() -> None:
    client = Client()
    client.stream.received(asking("a"))
    del client.secrets["a"]
    assert client.stream.changed().end == (Status.INVALID_ARGUMENT, "'a'")
    assert Client().stream.received(asking("c")).end == (Status.INVALID_ARGUMENT, "'c'")


def test_the_same_state_gives_the_same_secrets_and_a_renewal_others() -> None:
    world = DomainSet(DEFINITION, NOW)
    ask = ("default", "ROOTCA")
    before = secrets_for(world, "home.test", ME, ask)
    assert secrets_for(world, "home.test", ME, ask) == before
    world.domains["home.test"].renew(NOW + timedelta(seconds=1))
    after = secrets_for(world, "home.test", ME, ask)
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)
    assert SpiffeId.parse(certificate_of(after[0])[1]) == SpiffeId.parse(B)
