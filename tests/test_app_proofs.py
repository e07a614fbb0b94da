"""Our tokens and callers' keys, as the configuration needs them, from a real Workload API."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace

import pytest

from uproxy.app.identity import make_source, now
from uproxy.app.proofs import Proofs
from uproxy.authority import Definition, DevelopmentAuthority, DomainDefinition, EntryDefinition
from uproxy.config.scalars import workload_api
from uproxy.config.settings import (
    DestinationSettings,
    FilesIdentity,
    IdentitySettings,
    InboundTrustSettings,
    L7EndpointSettings,
    L7ProxySettings,
    Settings,
)
from uproxy.identity.files import FilesSource
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress, Transport
from uproxy.spiffe.jwt_svids import verify_jwt_svid

WEB, DB = "spiffe://example.org/web", "spiffe://example.org/db"
A = TcpAddress("10.0.0.1", 5432)
DIRECT = DestinationSettings("cache", (A,), Transport.HBONE, (WEB,))
BEHIND = DestinationSettings("db", (A,), Transport.HBONE, (DB, WEB), via="l7")
PROXY = L7ProxySettings("l7", (L7EndpointSettings(A),), ("spiffe://example.org/l7",))
TRUSTED = InboundTrustSettings("l7", ("spiffe://example.org/l7",), ("spiffe://example.org/**",))


@pytest.fixture
def sockets() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="authority-") as folder:
        yield folder


@pytest.fixture
async def authority(sockets: str) -> AsyncIterator[DevelopmentAuthority]:
    entries = (EntryDefinition(WEB, uid=os.getuid()),)
    definition = Definition({"example.org": DomainDefinition("example.org", entries)}, sockets)
    async with DevelopmentAuthority(definition) as running:
        yield running


class Here:
    """Proofs with their source, of which the tokens are remembered."""

    def __init__(self, identity: IdentitySettings) -> None:
        self.settings = Settings(identity, destinations={"cache": DIRECT, "db": BEHIND})
        self.source = make_source(identity)
        self.told: list[Mapping[str, str]] = []
        self.proofs = Proofs(self.source, self.told.append)

    def follow(self, **changes: object) -> None:
        self.proofs.follow(replace(self.settings, **changes))  # type: ignore[arg-type]  # the test's

    async def stop(self) -> None:
        await self.proofs.stop()
        await self.source.stop()


@pytest.fixture
async def here(authority: DevelopmentAuthority) -> AsyncIterator[Here]:
    address = workload_api(authority.endpoints["example.org"])
    made = Here(IdentitySettings(workload_api=address))
    yield made
    await made.stop()


async def test_a_destination_behind_an_l7_proxy_has_a_token_that_others_believe(
    here: Here,
) -> None:
    proving = replace(TRUSTED, require_proof=True)
    here.follow(l7_proxies={"l7": PROXY}, inbound_trust={"l7": proving})
    await here.source.start()
    await eventually(lambda: here.told, "a token")
    await eventually(lambda: here.source.current.jwt_bundles, "the keys")
    assert set(here.told[-1]) == {"db"}
    for ours in (DB, WEB):
        found = verify_jwt_svid(here.told[-1]["db"], here.source.current.jwt_bundles, ours, now())
        assert found.spiffe_id == WEB
    status = here.proofs.status["db"]
    assert (status.audience, status.expires, status.error) == ((DB, WEB), found.expires, None)


async def test_without_an_l7_proxy_nothing_is_fetched(here: Here) -> None:
    here.follow(destinations={"cache": DIRECT}, inbound_trust={"l7": TRUSTED})
    await here.source.start()
    await eventually(lambda: here.source.current.svid is not None, "the identity")
    assert here.proofs.status == {}
    assert "jwt_error" not in here.source.status


async def test_tokens_and_keys_follow_a_reload(here: Here) -> None:
    here.follow(destinations={})
    await here.source.start()
    proving = replace(TRUSTED, require_proof=True)
    here.follow(l7_proxies={"l7": PROXY}, inbound_trust={"l7": proving})
    await eventually(lambda: here.told, "a token")
    await eventually(lambda: here.source.current.jwt_bundles, "the keys")
    here.follow(destinations={})
    assert here.told[-1] == {}
    assert here.proofs.status == {}
    assert here.source.current.jwt_bundles == {}


async def test_an_identity_from_files_says_that_it_has_no_tokens() -> None:
    here = Here(IdentitySettings(files=FilesIdentity("/a", "/b", {})))
    assert isinstance(here.source, FilesSource)
    # as if the files were good
    here.source._replace(Authority("example.org").issue("/web").svid, "", {})
    here.follow()
    await eventually(
        lambda: "files have no JWT-SVIDs" in str(here.proofs.status["db"].error), "the reason"
    )
    await here.stop()
