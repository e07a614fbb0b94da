"""Identity files, CRLs, rules and certificates change or expire under strangers (openssl) who talk
to a running uProxy meanwhile: what new handshakes get, and what becomes of open connections.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers.background import background
from tests.helpers.dialogue import (
    dial,
    is_reset,
    open_connection,
    refused,
    shown_serial,
    still_talks,
)
from tests.helpers.endings import ended, metric, only
from tests.helpers.traffic import echo
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    FileWorld,
    Inbound,
    TunnelsIn,
    TunnelsOut,
    allowing,
    by_files,
    own_serial,
)
from uproxy.lab.pki import Issued
from uproxy.lab.waiting import wait_until
from uproxy.spiffe.encoding import serial_text


def test_files_that_are_replaced_show_in_the_next_handshake(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    """A key that doesn't fit, as between the writing of two files, changes nothing."""
    web = file_world.theirs(WEB)
    first, second = (file_world.ca.issue("/ns/shop/sa/orders") for _ in range(2))
    ours = file_world.write("replaced", first)
    with Inbound(tmp_path, by_files(ours), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=3), open_connection(uproxy.port, web) as old:
            ours.key.write_bytes(second.key_pem)
            wait_until(lambda: "this key is not the one" in uproxy.output, "a complaint")
            with open_connection(uproxy.port, web) as meanwhile:
                assert shown_serial(meanwhile) == serial(first) == shown_serial(old)
                meanwhile.end()

            ours.svid.write_bytes(second.pem)
            wait_until(lambda: own_serial(uproxy) == serial(second), "the new SVID")
            with open_connection(uproxy.port, web) as new:
                assert shown_serial(new) == serial(second)
                new.end()
            still_talks(old)
            old.end()
        assert metric(uproxy, "uproxy_identity_rotations_total") == 1


def serial(issued: Issued) -> str:
    return serial_text(issued.certificate)


def test_a_crl_that_is_replaced_cuts_off_whom_it_names(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    """Though a reload had its connection judged before, and found good."""
    issued = file_world.ca.issue("/ns/web/sa/frontend")
    web = file_world.write("revoked", issued)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(file_world.ca.crl().public_bytes(Encoding.PEM))
    ours = file_world.ours(ORDERS)
    ours["files"]["crls"] = [str(crl)]
    with Inbound(tmp_path, ours, echo_app, allow=[WEB, UNWANTED]) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as client,
            open_connection(uproxy.port, file_world.theirs(WEB)) as other,
            open_connection(uproxy.port, file_world.theirs(UNWANTED)) as denied,
        ):
            uproxy.change(authorization=[allowing(WEB)])
            is_reset(denied)
            with ended(uproxy, "identity_distrusted", rule="UP-2", opened=True):
                crl.write_bytes(file_world.ca.crl([issued]).public_bytes(Encoding.PEM))
                is_reset(client)
            with ended(uproxy, "peer_untrusted", rule="UP-2"):
                assert "SSL alert number 44" in refused(uproxy.port, web)
            still_talks(other)


def test_a_rule_that_is_gone_closes_what_it_let_in(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    with Inbound(tmp_path, file_world.ours(ORDERS), echo_app, allow=[WEB, UNWANTED]) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, file_world.theirs(WEB)) as client,
            open_connection(uproxy.port, file_world.theirs(UNWANTED)) as other,
        ):
            with ended(uproxy, "policy_changed", rule="callers", opened=True) as lines:
                uproxy.change(authorization=[allowing(UNWANTED)])
                is_reset(client)
            assert only(lines)["src.identity"] == WEB
            still_talks(other)


def test_a_rule_that_denies_is_named_to_whom_it_closes(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    with Inbound(tmp_path, file_world.ours(ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        deny = {"name": "no-web", "action": "deny", "from": {"identities": [WEB]}}
        with (
            open_connection(uproxy.port, file_world.theirs(WEB)) as client,
            ended(uproxy, "policy_changed", rule="no-web", opened=True),
        ):
            uproxy.change(authorization=[allowing(WEB), deny])
            is_reset(client)


def test_a_rule_that_is_gone_keeps_what_it_let_in_where_told_so(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    web = file_world.theirs(WEB)
    with Inbound(tmp_path, file_world.ours(ORDERS), echo_app, on_policy_change="keep") as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, web) as client:
            uproxy.change(authorization=[allowing(UNWANTED)])
            wait_until(lambda: metric(uproxy, "uproxy_config_reloads_total") == 1, "the reload")
            with ended(uproxy, "denied"):
                refused(uproxy.port, web)
            still_talks(client)
            with ended(uproxy, "closed"):
                client.end()


def test_a_certificate_that_expires_meanwhile_closes_only_where_told_so(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    now = file_world.ca.now
    with (
        Inbound(tmp_path, {**file_world.ours(ORDERS), "on_expiry": "close"}, echo_app) as closing,
        Inbound(tmp_path, file_world.ours(ORDERS), echo_app) as keeping,
    ):
        closing.wait_until_ready()
        keeping.wait_until_ready()
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
        issued = file_world.ca.issue("/ns/web/sa/frontend", not_before=now, not_after=soon)
        brief = file_world.write("brief", issued)
        with (
            open_connection(closing.port, brief) as client,
            open_connection(keeping.port, brief) as kept,
        ):
            with ended(closing, "identity_expired", rule="callers", opened=True):
                is_reset(client)
            with ended(keeping, "peer_untrusted", rule="X5-14"):
                assert "SSL alert number 45" in refused(keeping.port, brief)
            still_talks(kept)
            with ended(keeping, "closed"):
                kept.end()


def test_streams_to_a_port_that_its_door_lists_no_more_are_closed(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    """Though a rule still allows them; those to other ports stay."""
    with background(echo) as other:
        called = TunnelsIn(tmp_path, file_world.ours(ORDERS), echo_app, other, engine="native")
        callers = [
            TunnelsOut(tmp_path, file_world.ours(WEB), app, end=called.port, engine="native")
            for app in (echo_app, other)
        ]
        with called, callers[0], callers[1]:
            for each in (called, *callers):
                each.wait_until_ready()
            with dial(callers[0].port) as gone, dial(callers[1].port) as kept:
                for client in (gone, kept):
                    client.sendall(b"hello")
                    assert client.recv(5) == b"hello"
                [door] = called.config["inbound"]
                with ended(called, "policy_changed", rule="callers", opened=True) as lines:
                    called.change(inbound=[{**door, "ports": [other]}])
                    with pytest.raises(ConnectionResetError):
                        gone.recv(1)
                assert f"port {echo_app} isn't among `ports`" in only(lines)["error"]
                kept.sendall(b"still")
                assert kept.recv(5) == b"still"
