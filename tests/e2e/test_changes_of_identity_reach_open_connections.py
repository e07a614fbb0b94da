"""Rotation, revocation, expiry and an agent that dies, seen by strangers (openssl) who talk to
a running uProxy meanwhile: what new handshakes get, and what becomes of open connections.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers.authorities import DevAuthority, entry
from tests.helpers.dialogue import Dialogue, ask, s_client
from tests.helpers.endings import ended, metric, only
from tests.helpers.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    FileWorld,
    Inbound,
    Outbound,
    allowing,
    by_agent,
    by_files,
    fetch_identity,
)
from tests.helpers.peers import IdentityFiles, SServer
from tests.helpers.pki import Issued
from tests.helpers.processes import Uproxy
from tests.helpers.waiting import wait_until

BILLING = "spiffe://partner.test/ns/billing/sa/invoices"


class Agent:
    """An authority of example.org whose endpoint is known before it runs."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.endpoint = f"unix://{sockets}/agent.sock"
        self.partners = f"unix://{sockets}/partner.sock"
        self.authority = DevAuthority(folder, self._domains({}))

    def define(self, **example: Any) -> None:
        """Change keys of the trust domain example.org; an agent that runs has taken it over."""
        taken_over = self.authority.output.count("taken over")
        self.authority.define(self._domains(example))
        wait_until(lambda: self.authority.output.count("taken over") > taken_over, "the definition")

    def unfederate(self) -> None:
        """The two trust domains have nothing to do with each other any more."""
        domains = self._domains({})
        for domain in domains.values():
            domain.pop("federates_with", None)
        self.authority.define(domains)

    def files(self, spiffe_id: str) -> IdentityFiles:
        """A stranger's files, who believes example.org."""
        domain, name = spiffe_id.split("/")[2], spiffe_id.rsplit("/", 1)[-1]
        if domain == "example.org":
            return fetch_identity(self.folder / name, self.endpoint, spiffe_id)
        files = fetch_identity(self.folder / name, self.partners, spiffe_id)
        home = fetch_identity(self.folder / "home", self.endpoint, WEB)
        files.bundle.write_bytes(home.bundle.read_bytes())
        return files

    def _domains(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "example.org": {
                "socket": self.endpoint.removeprefix("unix://"),
                "entries": [entry(WEB), entry(ORDERS), entry(UNWANTED)],
                "federates_with": ["partner.test"],
                **example,
            },
            "partner.test": {
                "socket": self.partners.removeprefix("unix://"),
                "entries": [entry(BILLING)],
            },
        }


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Not started."""
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as sockets:
        yield Agent(tmp_path, Path(sockets))


@pytest.fixture
def running(agent: Agent) -> Iterator[Agent]:
    with agent.authority:
        yield agent


@contextlib.contextmanager
def open_connection(port: int, identity: IdentityFiles) -> Iterator[Dialogue]:
    """An s_client that has heard an echo."""
    with s_client(port, identity) as client:
        client.type(b"hello\n")
        client.hear("(?m)^hello$")
        yield client


def still_talks(client: Dialogue) -> None:
    client.type(b"still here\n")
    client.hear("(?m)^still here$")


def is_reset(client: Dialogue) -> None:
    assert "errno=104" in client.hear_out()


def refused(port: int, identity: IdentityFiles) -> str:
    """What s_client says when it isn't let in."""
    with s_client(port, identity) as client:
        client.type(b"hello\n")
        said = client.hear_out()
    assert not re.search("(?m)^hello$", said)
    return said


def shown_serial(client: Dialogue) -> str:
    """Of the certificate that s_client was shown."""
    found = re.search(
        "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", client.heard, re.S
    )
    assert found is not None
    return f"{x509.load_pem_x509_certificate(found.group().encode()).serial_number:x}"


def own_serial(uproxy: Uproxy) -> str:
    """Of the SVID in force."""
    serial: str = json.loads(uproxy.request("/certs")[1])["svid"]["chain"][0]["serial"]
    return serial


def not_ready(uproxy: Uproxy) -> str:
    """Why, once it isn't."""
    wait_until(lambda: uproxy.status("/readyz") == 503, "it not to be ready", timeout=20)
    return uproxy.request("/readyz")[1]


def test_new_handshakes_show_the_new_svid_and_open_connections_live_on(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    running.define(ttl="4s")
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed", count=2) as lines,
            open_connection(uproxy.port, running.files(WEB)) as old,
        ):
            before = metric(uproxy, "uproxy_identity_rotations_total")
            wait_until(
                lambda: metric(uproxy, "uproxy_identity_rotations_total") > before, "a renewal"
            )
            now = own_serial(uproxy)
            with open_connection(uproxy.port, running.files(WEB)) as new:
                assert shown_serial(new) == now != shown_serial(old)
                still_talks(old)
                new.end()
            old.end()
        assert {line["src.identity"] for line in lines} == {WEB}
        assert uproxy.status("/readyz") == 200


def test_a_revoked_caller_is_cut_off_and_kept_out(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    web, unwanted = running.files(WEB), running.files(UNWANTED)
    ours = by_agent(running.endpoint, ORDERS)
    with Inbound(tmp_path, ours, echo_app, allow=[WEB, UNWANTED]) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as revoked,
            open_connection(uproxy.port, unwanted) as other,
        ):
            with ended(uproxy, "identity_distrusted", rule="UP-2", opened=True) as lines:
                running.define(revoke=[WEB])
                is_reset(revoked)
            assert only(lines)["src.identity"] == WEB
            assert "revoked" in only(lines)["error"]

            with ended(uproxy, "peer_untrusted", rule="UP-2") as lines:
                assert "SSL alert number 44" in refused(uproxy.port, web)
            assert "revoked" in only(lines)["error"]
            still_talks(other)


def test_a_revoked_caller_may_finish_where_distrust_keeps(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    web = running.files(WEB)
    ours = by_agent(running.endpoint, ORDERS, on_distrust="keep")
    with Inbound(tmp_path, ours, echo_app) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, web) as client:
            running.define(revoke=[WEB])
            wait_until(lambda: "revoked" in refused_reason(uproxy, web), "the revocation")
            still_talks(client)
            with ended(uproxy, "closed"):
                client.end()


def refused_reason(uproxy: Inbound, identity: IdentityFiles) -> str:
    """Why the last of all callers wasn't let in; empty when he was."""
    seen = len(uproxy.accesses)
    with s_client(uproxy.port, identity) as client:
        client.end()
    wait_until(lambda: len(uproxy.accesses) > seen, "an access line")
    return uproxy.accesses[-1]["error"] or ""


def test_a_caller_whose_trust_domain_is_no_longer_federated_is_cut_off(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    billing = running.files(BILLING)
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app, allow=[BILLING]) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, billing) as client:
            with ended(uproxy, "identity_distrusted", rule="X5-17", opened=True):
                running.unfederate()
                is_reset(client)
            with ended(uproxy, "peer_untrusted", rule="X5-17"):
                assert "SSL alert number 48" in refused(uproxy.port, billing)


def test_a_revoked_server_is_cut_off(running: Agent, tmp_path: Path) -> None:
    with (
        SServer(tmp_path, running.files(ORDERS)) as server,
        Outbound(tmp_path, by_agent(running.endpoint, WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            socket.create_connection(("127.0.0.1", uproxy.port), 20) as app,
            ended(uproxy, "identity_distrusted", rule="UP-2", opened=True) as lines,
        ):
            app.sendall(b"hello\n")
            assert app.recv(100) == b"olleh\n"
            running.define(revoke=[ORDERS])
            with pytest.raises(ConnectionResetError):
                app.recv(100)
        assert only(lines)["dst.identity"] == ORDERS
        with ended(uproxy, "peer_untrusted", rule="UP-2"):
            assert ask(uproxy.port) == b""


@pytest.mark.parametrize("left", [[], [WEB]], ids=["nothing is left", "another is left"])
def test_without_its_entry_uproxy_has_no_identity(
    running: Agent, tmp_path: Path, echo_app: int, left: list[str]
) -> None:
    web = running.files(WEB)
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as client,
            ended(uproxy, "identity_distrusted", rule="callers", opened=True) as lines,
        ):
            running.define(entries=[entry(each) for each in left])
            is_reset(client)
        assert "withdrawn" in only(lines)["error"]

        reason = not_ready(uproxy)
        assert ("only" if left else "no identity") in reason
        with ended(uproxy, "no_identity"):
            refused(uproxy.port, web)
        assert metric(uproxy, "uproxy_identity_revocations_total") == 1

        running.define()
        uproxy.wait_until_ready(5)
        with ended(uproxy, "closed"), open_connection(uproxy.port, running.files(WEB)) as client:
            client.end()


def test_an_agent_that_is_killed_is_missed_only_at_expiry(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    web = running.files(WEB)
    running.define(ttl="6s")
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        running.authority.send(signal.SIGKILL)
        running.authority.wait()
        with ended(uproxy, "closed"), open_connection(uproxy.port, web) as client:
            assert uproxy.status("/readyz") == 200
            client.end()

        assert "expired" in not_ready(uproxy)
        with ended(uproxy, "no_identity"):
            refused(uproxy.port, web)

        running.authority.start()
        uproxy.wait_until_ready(5)
        with ended(uproxy, "closed"), open_connection(uproxy.port, running.files(WEB)) as client:
            client.end()
        assert metric(uproxy, "uproxy_workload_api_reconnects_total") >= 1


def test_uproxy_starts_without_an_agent_and_waits_for_it(
    agent: Agent, tmp_path: Path, echo_app: int
) -> None:
    with Inbound(tmp_path, by_agent(agent.endpoint, ORDERS), echo_app) as uproxy:
        wait_until(lambda: uproxy.status("/livez") == 200, "it to live")
        reason = not_ready(uproxy)
        assert "no identity yet" in reason
        assert "agent.sock" in reason
        with (
            ended(uproxy, "no_identity"),
            # as early as in connect()
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", uproxy.port), 20) as caller,
        ):
            caller.recv(1)

        with agent.authority:
            uproxy.wait_until_ready(5)
            with ended(uproxy, "closed"), open_connection(uproxy.port, agent.files(WEB)) as client:
                client.end()


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
    return f"{issued.certificate.serial_number:x}"


def test_a_crl_that_is_replaced_cuts_off_whom_it_names(
    tmp_path: Path, file_world: FileWorld, echo_app: int
) -> None:
    issued = file_world.ca.issue("/ns/web/sa/frontend")
    web = file_world.write("revoked", issued)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(file_world.ca.crl().public_bytes(Encoding.PEM))
    ours = file_world.ours(ORDERS)
    ours["files"]["crls"] = [str(crl)]
    with Inbound(tmp_path, ours, echo_app) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as client,
            open_connection(uproxy.port, file_world.theirs(WEB)) as other,
        ):
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
