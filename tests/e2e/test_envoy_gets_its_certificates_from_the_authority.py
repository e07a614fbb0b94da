"""Envoy's SDS against `uproxy authority`: as with a SPIRE agent it gets its certificate, whom to
believe, and new ones of both while it serves."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from OpenSSL import SSL

from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import ORDERS, STRANGER, WEB, fetch_identity
from uproxy.lab.ports import free_port
from uproxy.lab.software import envoy
from uproxy.lab.software.shared_envoy import SHIPPED, SharedEnvoy
from uproxy.lab.waiting import wait_until
from uproxy.spiffe.svid import claimed_identity

L7 = "spiffe://example.org/ns/mesh/sa/l7"
BILLING = "spiffe://partner.test/ns/billing/sa/invoices"
UNLISTED = "spiffe://example.org/ns/web/sa/unlisted"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
REFUSED = (SSL.Error, ConnectionError)


def domains(*more: str, **example: Any) -> dict[str, Any]:
    return {
        "example.org": {
            "entries": [entry(each) for each in (L7, ORDERS, WEB, *more)],
            "federates_with": ["partner.test"],
            **example,
        },
        "partner.test": {
            "entries": [entry(BILLING)],
            "federates_with": ["example.org"],
            "intermediate": True,
        },
        "stranger.test": {"entries": [entry(STRANGER)]},
    }


@dataclass
class World:
    """An authority, and callers with its identities."""

    folder: Path
    authority: DevAuthority
    echo: int

    def envoy(self, certificate: str, validation: str) -> SdsEnvoy:
        return SdsEnvoy(self, certificate, validation)

    def call(self, port: int, spiffe_id: str = WEB) -> Caller:
        return Caller(self, port, spiffe_id)

    @property
    def socket(self) -> str:
        return self.authority.endpoints["example.org"].removeprefix("unix://")


class SdsEnvoy(envoy.Envoy):
    """Accepts mutual TLS for the echo application, with these two secrets."""

    def __init__(self, world: World, certificate: str, validation: str) -> None:
        shipped = yaml.safe_load((SHIPPED / "sds.yaml").read_text())
        (sds,) = shipped["static_resources"]["clusters"]
        sds["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": world.socket}}}}]}
        ]
        source = {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "1s",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
            },
        }
        anybody = [{"san_type": "URI", "matcher": {"prefix": "spiffe://"}}]
        context = {
            "@type": f"{TLS}DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificate_sds_secret_configs": [{"name": certificate, "sds_config": source}],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": anybody},
                    "validation_context_sds_secret_config": {
                        "name": validation,
                        "sds_config": source,
                    },
                },
            },
        }
        port = free_port()
        proxy = {"name": "tcp_proxy", "typed_config": envoy.tcp_proxy("echo")}
        tls = {"name": "envoy.transport_sockets.tls", "typed_config": context}
        door = envoy.listener(port, proxy, tls)
        bootstrap = envoy.resources(door, envoy.cluster("echo", world.echo, None), sds)
        node = {"node": {"id": "test", "cluster": "test"}}
        super().__init__("sds", world.folder, port, {**bootstrap, **node})


class Caller:
    """A connection by OpenSSL, whose certificate was fetched just before."""

    def __init__(self, world: World, port: int, spiffe_id: str) -> None:
        domain = spiffe_id.split("/")[2]
        folder = world.folder / f"caller-{domain}"
        files = fetch_identity(folder, world.authority.endpoints[domain], spiffe_id)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.use_certificate_chain_file(str(files.svid))
        context.use_privatekey_file(str(files.key))
        context.set_verify(SSL.VERIFY_PEER)
        # those that example.org's workloads are given
        home = fetch_identity(world.folder / "home", world.authority.endpoints["example.org"], WEB)
        context.load_verify_locations(str(home.bundle))
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._tls = SSL.Connection(context, self._socket)
        self._socket.setblocking(True)
        self._tls.set_connect_state()

    def __enter__(self) -> Caller:
        try:
            self._tls.do_handshake()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def says(self, text: bytes) -> bytes:
        """Send `text`, and return what comes back."""
        self._tls.sendall(text)
        return self._tls.recv(len(text))

    @property
    def server(self) -> x509.Certificate:
        found = self._tls.get_peer_certificate(as_cryptography=True)
        assert found is not None
        return found

    @property
    def server_id(self) -> str:
        return str(claimed_identity(self.server))


@pytest.fixture(scope="module")
def world(folder: Path, echo_app: int) -> Iterator[World]:
    with DevAuthority(folder, domains()) as authority:
        yield World(folder, authority, echo_app)


@pytest.mark.parametrize(
    ("name", "validation", "shown"),
    [("default", "ROOTCA", L7), (ORDERS, "ALL", ORDERS), (WEB, "spiffe://example.org", WEB)],
)
def test_it_serves_with_the_certificate_that_it_names(
    world: World, name: str, validation: str, shown: str
) -> None:
    with world.envoy(name, validation) as serving, world.call(serving.port) as caller:
        assert caller.says(b"hello") == b"hello"
        assert caller.server_id == shown


def test_who_is_let_in_is_of_the_trust_domains_that_it_names(world: World) -> None:
    let_in: dict[str, list[str]] = {}
    for validation in ("ROOTCA", "ALL", "spiffe://partner.test"):
        let_in[validation] = []
        with world.envoy("default", validation) as serving:
            for spiffe_id in (WEB, BILLING, STRANGER):
                with (
                    contextlib.suppress(*REFUSED),
                    world.call(serving.port, spiffe_id) as caller,
                ):
                    assert caller.says(b"hello") == b"hello"
                    let_in[validation].append(spiffe_id)
    assert let_in == {
        "ROOTCA": [WEB],
        "ALL": [WEB, BILLING],
        "spiffe://partner.test": [BILLING],
    }


def test_its_certificates_are_replaced_while_it_serves(tmp_path: Path, echo_app: int) -> None:
    with DevAuthority(tmp_path, domains(ttl="4s")) as authority:
        world = World(tmp_path, authority, echo_app)
        with world.envoy("default", "ALL") as serving, world.call(serving.port) as before:
            first = before.server

            def another() -> x509.Certificate | None:
                with world.call(serving.port) as caller:
                    assert caller.says(b"hello") == b"hello"
                    return caller.server if caller.server != first else None

            renewed = wait_until(another, "a renewed certificate")
            assert renewed is not None
            assert renewed.issuer == first.issuer
            authority.send(signal.SIGUSR1)

            def of_the_new_ca() -> bool:
                with world.call(serving.port) as caller:
                    assert caller.says(b"hello") == b"hello"
                    return bool(caller.server.issuer != first.issuer)

            # callers with certificates of the old CA and of the new one are let in all the time
            wait_until(of_the_new_ca, "a certificate of the new CA")
            assert before.says(b"still there") == b"still there"
            rejected = serving.statistics("sds.default").items()
            assert sum(value for name, value in rejected if "rejected" in name) == 0


def test_it_gets_no_certificate_of_an_identity_that_it_may_not_have(
    tmp_path: Path, echo_app: int
) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        world = World(tmp_path, authority, echo_app)
        with world.envoy(UNLISTED, "ROOTCA") as waiting:
            with pytest.raises(REFUSED), world.call(waiting.port):
                pass
            authority.define(domains(UNLISTED))

            def served() -> str | None:
                with contextlib.suppress(*REFUSED), world.call(waiting.port) as caller:
                    return caller.server_id
                return None

            assert wait_until(served, "the certificate") == UNLISTED


def test_the_shared_envoy_takes_its_certificates_from_there_too(
    world: World, tmp_path: Path
) -> None:
    shared = SharedEnvoy(tmp_path, world.socket, destinations=1)
    with shared, world.call(shared.port) as caller:
        assert caller.server_id == L7
