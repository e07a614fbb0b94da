"""What becomes of open connections and of new ones when bundles and CRLs change: a bad one ends
the trust in whom it is about and hinders nothing else; time alone ends nothing that is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers.dialogue import is_reset, open_connection, refused, shown_serial, still_talks
from tests.helpers.endings import ended, metric
from tests.helpers.workload_api import FakeAgent, svid_message, svid_response
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.mesh import Inbound, by_agent, by_files
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import wait_until
from uproxy.spiffe.encoding import serial_text

ORDERS, WEB, BILLING = "/ns/shop/sa/orders", "/ns/web/sa/frontend", "/ns/pay/sa/billing"
ALLOW = ["spiffe://example.org/ns/web/sa/frontend", "spiffe://partner.test/ns/pay/sa/billing"]
HOME, PARTNER = Authority("example.org"), Authority("partner.test")

ENGINES = pytest.mark.parametrize(
    "engine", ["native", pytest.param("python", marks=pytest.mark.slow)]
)


def caller(folder: Path, authority: Authority, path: str, **quirks: Any) -> IdentityFiles:
    """A stranger's files, who believes example.org."""
    return write_identity(folder / path[-4:], authority.issue(path, **quirks), HOME.pem)


@contextlib.contextmanager
def agent_that_says() -> Iterator[tuple[str, Any]]:
    """An agent on a loop of its own: its endpoint, and how to make it say a message."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="agent")
    thread.start()
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        agent = FakeAgent(Path(folder) / "a.sock")
        asyncio.run_coroutine_threadsafe(agent.start(), loop).result(10)
        try:
            yield f"unix:{folder}/a.sock", lambda word: loop.call_soon_threadsafe(agent.send, word)
        finally:
            asyncio.run_coroutine_threadsafe(agent.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@ENGINES
@pytest.mark.parametrize("emptied", [b"", b"\x30\x03\x02\x01"], ids=["empty", "garbage"])
def test_a_partner_that_stops_its_trust_stops_nothing_else(
    tmp_path: Path, echo_app: int, engine: str, emptied: bytes
) -> None:
    first, renewed = HOME.issue(ORDERS), HOME.issue(ORDERS)
    web, billing = caller(tmp_path, HOME, WEB), caller(tmp_path, PARTNER, BILLING)
    with agent_that_says() as (endpoint, say):
        ours = by_agent(endpoint, first.spiffe_id)
        with Inbound(tmp_path, ours, echo_app, allow=ALLOW, engine=engine) as uproxy:
            say(svid_response(svid_message(first, HOME), federated={"partner.test": PARTNER.der}))
            uproxy.wait_until_ready()
            with (
                open_connection(uproxy.port, web) as own,
                open_connection(uproxy.port, billing) as partners,
            ):
                with ended(uproxy, "identity_distrusted", rule="TB-5", opened=True) as lines:
                    say(svid_response(svid_message(renewed, HOME),
                                      federated={"partner.test": emptied}))  # fmt: skip
                    is_reset(partners)
                assert "no certificate of partner.test is trusted" in lines[0]["error"]
                with ended(uproxy, "peer_untrusted", rule="TB-5"):
                    assert "SSL alert number 48" in refused(uproxy.port, billing)
                still_talks(own)
            with open_connection(uproxy.port, web) as new:
                assert shown_serial(new) == serial_text(renewed.certificate)
            status, notes = uproxy.request("/readyz")
            assert (status, "distrusted: no certificate of partner.test" in notes) == (200, True)
            assert metric(uproxy, "uproxy_workload_api_discarded_messages_total") == 0


def test_our_own_emptied_bundle_ends_our_own_domains_trust_only(
    tmp_path: Path, echo_app: int
) -> None:
    first, renewed = HOME.issue(ORDERS), HOME.issue(ORDERS)
    web, billing = caller(tmp_path, HOME, WEB), caller(tmp_path, PARTNER, BILLING)
    federated = {"partner.test": PARTNER.der}
    with agent_that_says() as (endpoint, say):
        ours = by_agent(endpoint, first.spiffe_id)
        with Inbound(tmp_path, ours, echo_app, allow=ALLOW) as uproxy:
            say(svid_response(svid_message(first, HOME), federated=federated))
            uproxy.wait_until_ready()
            message = svid_message(renewed, HOME)
            message.bundle = b""
            with open_connection(uproxy.port, web) as own:
                say(svid_response(message, federated=federated))
                is_reset(own)
            with open_connection(uproxy.port, billing) as partners:
                assert shown_serial(partners) == serial_text(renewed.certificate)
            assert "SSL alert number 48" in refused(uproxy.port, web)

            say(svid_response(message))
            wait_until(lambda: uproxy.status("/readyz") == 503, "it to believe nobody")
            assert "all peers are refused" in uproxy.request("/readyz")[1]


@ENGINES
def test_a_bundle_file_that_stays_bad_ends_the_trust_in_its_domain_only(
    tmp_path: Path, echo_app: int, engine: str
) -> None:
    partner = tmp_path / "partner.json"
    partner.write_bytes(PARTNER.jwks)
    files = write_identity(tmp_path / "ours", HOME.issue(ORDERS), HOME.pem)
    web, billing = caller(tmp_path, HOME, WEB), caller(tmp_path, PARTNER, BILLING)
    ours = by_files(files)
    ours["files"]["bundles"]["partner.test"] = str(partner)
    with Inbound(tmp_path, ours, echo_app, allow=ALLOW, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as own,
            open_connection(uproxy.port, billing) as partners,
        ):
            partner.write_bytes(PARTNER.jwks[:40])
            is_reset(partners)
            still_talks(own)
        assert "SSL alert number 48" in refused(uproxy.port, billing)
        partner.write_bytes(PARTNER.jwks)
        wait_until(lambda: "distrusted" not in uproxy.request("/readyz")[1], "the bundle")
        with open_connection(uproxy.port, billing):
            pass


def believed_roots(uproxy: Inbound) -> int:
    [domain] = json.loads(uproxy.request("/certs")[1])["trust_domains"]
    return len(domain["roots"])


@ENGINES
def test_an_expired_root_that_is_pruned_cuts_nobody_whom_it_let_in(
    tmp_path: Path, echo_app: int, engine: str
) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    old, withdrawn = Authority("example.org", not_after=soon), Authority("example.org")
    files = write_identity(tmp_path / "ours", HOME.issue(ORDERS), HOME.pem)
    files.bundle.write_bytes(old.pem + HOME.pem + withdrawn.pem)
    expired = write_identity(tmp_path / "a", old.issue(WEB, not_after=soon), HOME.pem)
    cut = write_identity(tmp_path / "b", withdrawn.issue(WEB), HOME.pem)
    with Inbound(tmp_path, by_files(files), echo_app, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, expired) as stays,
            open_connection(uproxy.port, cut) as goes,
        ):
            wait_until(lambda: datetime.now(UTC) > soon + timedelta(seconds=1), "the root's end")
            files.bundle.write_bytes(HOME.pem)
            wait_until(lambda: believed_roots(uproxy) == 1, "the root to be gone")
            is_reset(goes)
            still_talks(stays)
        assert "SSL alert number" in refused(uproxy.port, expired)


@ENGINES
def test_a_crl_that_grows_stale_cuts_nobody_not_even_at_a_reload(
    tmp_path: Path, echo_app: int, engine: str
) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    files = write_identity(tmp_path / "ours", HOME.issue(ORDERS), HOME.pem)
    (tmp_path / "crl.pem").write_bytes(HOME.crl(next_update=soon).public_bytes(Encoding.PEM))
    web, late = caller(tmp_path, HOME, WEB), caller(tmp_path / "late", HOME, WEB)
    ours = by_files(files)
    ours["files"]["crls"] = [str(tmp_path / "crl.pem")]
    with Inbound(tmp_path, ours, echo_app, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, web) as one:
            uproxy.change(timeouts={"idle": "59m"})
            wait_until(lambda: "reloaded" in uproxy.output, "the reload")
            with open_connection(uproxy.port, web) as other:
                wait_until(lambda: datetime.now(UTC) > soon + timedelta(seconds=1), "staleness")
                uproxy.change(timeouts={"idle": "58m"})
                wait_until(lambda: uproxy.output.count("reloaded") == 2, "the second reload")
                with ended(uproxy, "peer_untrusted", rule="UP-3"):
                    assert "SSL alert number 46" in refused(uproxy.port, late)
                still_talks(one)
                still_talks(other)


@ENGINES
def test_a_crl_that_can_not_be_applied_ends_the_trust_in_its_issuer_only(
    tmp_path: Path, echo_app: int, engine: str
) -> None:
    files = write_identity(tmp_path / "ours", HOME.issue(ORDERS), HOME.pem)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(PARTNER.crl().public_bytes(Encoding.PEM))
    partner = tmp_path / "partner.pem"
    partner.write_bytes(PARTNER.pem)
    ours = by_files(files)
    ours["files"]["bundles"]["partner.test"] = str(partner)
    ours["files"]["crls"] = [str(crl)]
    web, billing = caller(tmp_path, HOME, WEB), caller(tmp_path, PARTNER, BILLING)
    delta = PARTNER.crl(extensions=[(x509.DeltaCRLIndicator(1), True)])
    with Inbound(tmp_path, ours, echo_app, allow=ALLOW, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as own,
            open_connection(uproxy.port, billing) as partners,
        ):
            with ended(uproxy, "identity_distrusted", rule="UP-4", opened=True):
                crl.write_bytes(delta.public_bytes(Encoding.PEM))
                is_reset(partners)
            with ended(uproxy, "peer_untrusted", rule="UP-4"):
                assert "SSL alert number 46" in refused(uproxy.port, billing)
            still_talks(own)
