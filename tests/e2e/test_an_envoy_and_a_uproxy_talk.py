"""A stock Envoy dials a running uProxy, resuming as it does by default, and is dialed by one.

Envoy's counters and uProxy's must tell the same story.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, only
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    FileWorld,
    Identities,
    Inbound,
    Outbound,
)
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy import EnvoyClient, EnvoyServer
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
SPIFFE_VALIDATOR = (
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
)
PQ = "X25519MLKEM768"


def spiffe_validation(identity: IdentityFiles, allow: Sequence[str]) -> dict[str, Any]:
    """Envoy's own SPIFFE validator: a bundle for each trust domain, then the names."""
    validator = {
        "@type": SPIFFE_VALIDATOR,
        "trust_domains": [
            {"name": "example.org", "trust_bundle": {"filename": str(identity.bundle)}}
        ],
    }
    return {
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(identity.svid)},
                    "private_key": {"filename": str(identity.key)},
                }
            ],
            "validation_context": {
                "custom_validator_config": {
                    "name": "envoy.tls.cert_validator.spiffe",
                    "typed_config": validator,
                },
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": spiffe_id}} for spiffe_id in allow
                ],
            },
        }
    }


@pytest.fixture(scope="module")
def door(folder: Path, world: Identities, echo_app: int) -> Iterator[Inbound]:
    with Inbound(folder, world.ours(ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture(scope="module")
def client(folder: Path, world: Identities, door: Inbound) -> Iterator[EnvoyClient]:
    """An Envoy that resumes, if it is let."""
    with EnvoyClient(folder, world.theirs(WEB), target=door.port, expect=[ORDERS]) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def server(folder: Path, world: Identities, echo_app: int) -> Iterator[EnvoyServer]:
    """An Envoy that knows SPIFFE, and hands out tickets."""
    orders = world.theirs(ORDERS)
    tls = spiffe_validation(orders, [WEB])
    with EnvoyServer(folder, orders, target=echo_app, allow=[], tls=tls) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def to_server(folder: Path, world: Identities, server: EnvoyServer) -> Iterator[Outbound]:
    with Outbound(folder, world.ours(WEB), server.port) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def grown(envoy: EnvoyClient | EnvoyServer, before: dict[str, int], name: str) -> int:
    """By how much the counters whose names end like this have grown."""
    now = envoy.statistics()
    return sum(now[each] - before.get(each, 0) for each in now if each.endswith(name))


def test_every_connection_of_a_resuming_envoy_is_a_full_handshake(
    client: EnvoyClient, door: Inbound
) -> None:
    before, ours = client.statistics(), handshakes(door, version="TLSv1.3", group=PQ)

    with ended(door, "closed", count=20) as lines:
        for _ in range(20):
            assert ask(client.port) == b"hello\n"

    assert handshakes(door, version="TLSv1.3", group=PQ) == ours + 20
    assert grown(client, before, "ssl.handshake") == 20
    assert grown(client, before, f"ssl.curves.{PQ}") == 20
    assert grown(client, before, "ssl.session_reused") == 0
    assert {(line["src.identity"], line["rule"]) for line in lines} == {(WEB, "callers")}


def test_under_tls_1_2_too(folder: Path, file_world: FileWorld, echo_app: int) -> None:
    with (
        Inbound(
            folder, file_world.ours(ORDERS), echo_app, tls={"min_version": "1.2"}
        ) as uproxy,
        EnvoyClient(
            folder, file_world.theirs(WEB), target=uproxy.port, expect=[ORDERS],
            tls=at_most_tls_1_2(file_world.theirs(WEB), [ORDERS]),
        ) as client,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=5):
            for _ in range(5):
                assert ask(client.port) == b"hello\n"
        assert handshakes(uproxy, version="TLSv1.2") == 5
        assert client.statistics()["cluster.target.ssl.session_reused"] == 0


def at_most_tls_1_2(identity: IdentityFiles, expect: Sequence[str]) -> dict[str, Any]:
    tls = spiffe_validation(identity, expect)
    tls["common_tls_context"]["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_2"}
    return tls


def test_bytes_arrive_through_an_envoy_that_dials(client: EnvoyClient, door: Inbound) -> None:
    with ended(door, "closed") as lines:
        asyncio.run(traffic.exchange(client.port, 8 * MIB + 1))
    line = only(lines)
    assert (line["bytes_recv"], line["bytes_sent"]) == (8 * MIB + 1, 8 * MIB + 1)


def test_a_half_close_comes_through_both(folder: Path, file_world: FileWorld) -> None:
    """The application answers only after its caller has finished, two proxies away."""
    with (
        background(traffic.answer_digest) as app,
        Inbound(folder, file_world.ours(ORDERS), app) as uproxy,
        EnvoyClient(folder, file_world.theirs(WEB), target=uproxy.port, expect=[ORDERS]) as client,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(client.port, MIB + 7))


def test_an_envoy_whom_no_rule_allows_sees_a_reset(
    folder: Path, world: Identities, door: Inbound
) -> None:
    unwanted = world.theirs(UNWANTED)
    with EnvoyClient(folder, unwanted, target=door.port, expect=[ORDERS]) as client:
        before = client.statistics()
        with ended(door, "denied") as lines:
            assert ask(client.port) == b""
        assert only(lines)["src.identity"] == UNWANTED
        assert grown(client, before, "cluster.target.upstream_cx_destroy_remote") == 1
        assert grown(client, before, "ssl.handshake") == 1


def test_an_envoy_with_two_identities_at_once_has_none(
    folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    """Envoy itself would accept such a certificate."""
    both = file_world.write("both", file_world.ca.issue(uris=(WEB, UNWANTED)))
    with (
        Inbound(folder, file_world.ours(ORDERS), echo_app, allow=[WEB, UNWANTED]) as uproxy,
        EnvoyClient(folder, both, target=uproxy.port, expect=[ORDERS]) as client,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_untrusted", rule="X5-2"):
            assert ask(client.port) == b""


def test_an_envoy_of_another_trust_domain_is_refused(
    folder: Path, world: Identities, door: Inbound
) -> None:
    stranger = world.theirs(STRANGER)
    with (
        EnvoyClient(folder, stranger, target=door.port, expect=[ORDERS]) as client,
        ended(door, "peer_untrusted", rule="X5-17"),
    ):
        assert ask(client.port) == b""


def test_an_envoy_that_expects_somebody_else_breaks_off(
    folder: Path, world: Identities, door: Inbound
) -> None:
    with EnvoyClient(folder, world.theirs(WEB), target=door.port, expect=[UNWANTED]) as client:
        before = client.statistics()
        with ended(door, "handshake_failed") as lines:
            assert ask(client.port) == b""
        assert grown(client, before, "ssl.fail_verify_san") >= 1
        assert str(only(lines)["error"]).startswith("the peer refused our certificate (")


def test_every_connection_to_an_envoy_is_a_full_handshake(
    to_server: Outbound, server: EnvoyServer
) -> None:
    before, ours = server.statistics(), handshakes(to_server, version="TLSv1.3", group=PQ)

    with ended(to_server, "closed", count=10) as lines:
        for _ in range(10):
            assert ask(to_server.port) == b"hello\n"

    assert handshakes(to_server, version="TLSv1.3", group=PQ) == ours + 10
    assert grown(server, before, "ssl.session_reused") == 0
    assert grown(server, before, f"ssl.curves.{PQ}") == 10
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}


def test_bytes_arrive_through_an_envoy_that_is_dialed(to_server: Outbound) -> None:
    with ended(to_server, "closed") as lines:
        asyncio.run(traffic.exchange(to_server.port, 8 * MIB + 1))
    line = only(lines)
    assert (line["bytes_recv"], line["bytes_sent"]) == (8 * MIB + 1, 8 * MIB + 1)


def test_an_envoy_whose_application_is_down_breaks_off(folder: Path, world: Identities) -> None:
    with (
        EnvoyServer(folder, world.theirs(ORDERS), target=free_port(), allow=[WEB]) as server,
        Outbound(folder, world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        assert ask(uproxy.port) == b""
        wait_until(lambda: uproxy.accesses, "its line")
        line = only(uproxy.accesses)
        # whether our last flight is sent before Envoy resets is a matter of microseconds
        assert (line["outcome"], str(line["error"]).partition(",")[0]) in {
            ("handshake_failed", "the peer closed in the middle of the handshake"),
            ("peer_refused", "reset by the peer before its first byte"),
        }


def test_an_envoy_that_refuses_us_is_a_failed_handshake(
    folder: Path, world: Identities, server: EnvoyServer
) -> None:
    with Outbound(folder, world.ours(UNWANTED), server.port) as uproxy:
        uproxy.wait_until_ready()
        before = server.statistics()
        with ended(uproxy, "handshake_failed", opened=True) as lines:
            assert ask(uproxy.port) == b""
        assert str(only(lines)["error"]).startswith("the peer refused our certificate (")
        wait_until(lambda: grown(server, before, "ssl.fail_verify_san") == 1, "Envoy's refusal")


def test_an_envoy_with_a_wrong_identity_is_not_what_was_expected(
    folder: Path, world: Identities, server: EnvoyServer
) -> None:
    before = server.statistics()
    with Outbound(folder, world.ours(WEB), server.port, expect=[UNWANTED]) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_unexpected") as lines:
            assert ask(uproxy.port) == b""
    assert ORDERS in only(lines)["error"]
    # and it hears why, where an alert in the clear would be a corrupt record
    wait_until(lambda: "SSLV3_ALERT_CERTIFICATE_UNKNOWN" in server.output, "the alert")
    assert grown(server, before, "downstream_cx_total") >= 1
