"""Our client against `uproxy authority` as a process: choice, rotation, revocation, outage."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from uproxy.config.scalars import workload_api
from uproxy.errors import UntrustedError
from uproxy.identity.verifier import Verifier
from uproxy.identity.workload_api.source import WorkloadApiSource
from uproxy.identity.workload_api.supervisor import SvidChoice
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.waiting import eventually
from uproxy.model import Role
from uproxy.spiffe.encoding import der

WEB = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"
BILLING = "spiffe://partner.test/ns/billing/sa/invoices"


def domains(**example: Any) -> dict[str, Any]:
    return {
        "example.org": {
            "entries": [entry(WEB, hint="web"), entry(ORDERS)],
            "federates_with": ["partner.test"],
            **example,
        },
        "partner.test": {
            "entries": [entry(BILLING)],
            "federates_with": ["example.org"],
            "intermediate": True,
        },
    }


@contextlib.asynccontextmanager
async def workload(
    authority: DevAuthority, choice: SvidChoice, trust_domain: str = "example.org"
) -> AsyncIterator[WorkloadApiSource]:
    """A running source."""
    source = WorkloadApiSource(
        workload_api(authority.endpoints[trust_domain]),
        spiffe_id=choice.spiffe_id,
        hint=choice.hint,
        revocation_grace=30,
        clock=lambda: datetime.now(UTC),
    )
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


def svid_of(source: WorkloadApiSource) -> str | None:
    return source.current.svid.spiffe_id if source.current.svid else None


def believes(verifying: WorkloadApiSource, chain: tuple[bytes, ...]) -> str:
    """The SPIFFE ID, or the rule that was broken."""
    try:
        now = datetime.now(UTC)
        return Verifier(verifying.current).verify(chain, Role.CLIENT, now).spiffe_id
    except UntrustedError as error:
        return error.rule


def refuses(verifying: WorkloadApiSource, chain: tuple[bytes, ...]) -> bool:
    return believes(verifying, chain) != WEB


def chain_of(source: WorkloadApiSource) -> tuple[bytes, ...]:
    assert source.current.svid is not None
    return tuple(der(one) for one in source.current.svid.chain)


async def test_two_workloads_of_one_user_have_the_identities_they_choose(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        async with (
            workload(authority, SvidChoice(hint="web")) as web,
            workload(authority, SvidChoice(spiffe_id=ORDERS)) as orders,
            workload(authority, SvidChoice(), "partner.test") as billing,
        ):
            await eventually(lambda: svid_of(web) == WEB, "the frontend")
            await eventually(lambda: svid_of(orders) == ORDERS, "orders")
            await eventually(lambda: svid_of(billing) == BILLING, "the partner")

            assert believes(orders, chain_of(web)) == WEB
            assert believes(orders, chain_of(billing)) == BILLING
            assert believes(billing, chain_of(orders)) == ORDERS


async def test_a_ca_rotation_never_makes_anybody_untrusted(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains(ttl="4s")) as authority:
        async with (
            workload(authority, SvidChoice(spiffe_id=WEB)) as web,
            workload(authority, SvidChoice(spiffe_id=ORDERS)) as orders,
        ):
            await eventually(lambda: svid_of(web) and svid_of(orders), "both")
            (old,) = web.current.bundles["example.org"].roots
            authority.send(signal.SIGUSR1)

            def is_over() -> bool:
                assert believes(orders, chain_of(web)) == WEB
                return old not in orders.current.bundles["example.org"].roots

            await eventually(is_over, "the old root's end", timeout=20)
            assert int(str(web.status["rotations"])) >= 2


async def test_a_revoked_workload_stops_and_the_others_refuse_what_it_held(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        async with (
            workload(authority, SvidChoice(spiffe_id=WEB)) as web,
            workload(authority, SvidChoice(spiffe_id=ORDERS)) as orders,
            workload(authority, SvidChoice(), "partner.test") as billing,
        ):
            everybody = (web, orders, billing)
            await eventually(lambda: all(map(svid_of, everybody)), "an identity for everybody")
            held = chain_of(web)
            assert believes(orders, held) == believes(billing, held) == WEB

            authority.define(domains(revoke=[WEB]))
            await eventually(lambda: svid_of(web) is None, "its revocation")
            assert "doesn't offer" in web.current.reason
            for other in (orders, billing):
                await eventually(partial(refuses, other, held), "the CRL")

            authority.define(domains())
            await eventually(lambda: svid_of(web) == WEB, "its return")
            assert believes(orders, held) != WEB
            assert believes(orders, chain_of(web)) == WEB


async def test_removing_every_entry_revokes_at_once(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        async with workload(authority, SvidChoice(spiffe_id=WEB)) as web:
            await eventually(lambda: svid_of(web) == WEB, "the identity")

            authority.define(domains(entries=[]))
            await eventually(lambda: svid_of(web) is None, "its revocation")
            assert web.status["revocations"] == 1
            assert "no identity issued" in web.current.reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_outage_of_the_authority_is_survived(
    tmp_path: Path, number: signal.Signals
) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        async with workload(authority, SvidChoice(spiffe_id=WEB)) as web:
            await eventually(lambda: svid_of(web) == WEB, "the identity")
            before = web.current
            authority.stop(number)
            await eventually(lambda: web.status["stream"] == "retrying", "the outage")
            assert web.current == before

            authority.start()
            await eventually(lambda: web.current.svid != before.svid, "the new CA's SVID")
            assert svid_of(web) == WEB
            assert web.status["revocations"] == 0


async def test_a_bad_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        async with workload(authority, SvidChoice(spiffe_id=WEB)) as web:
            await eventually(lambda: svid_of(web) == WEB, "the identity")
            before = web.current

            authority.define(domains(ttl="soon"))
            await eventually(lambda: "not taken over" in authority.output, "the complaint")

            assert "must be a duration" in authority.output
            assert web.current == before


def test_it_says_what_it_is_for_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with DevAuthority(tmp_path, domains()) as authority:
        assert "FOR DEVELOPMENT AND TESTS ONLY" in authority.output
        sockets = [Path(one.removeprefix("unix://")) for one in authority.endpoints.values()]
        assert all(path.is_socket() for path in sockets)
        authority.send(signal.SIGHUP)
        authority.send(signal.SIGTERM)

        assert authority.wait() == 0
        assert not any(path.exists() for path in sockets)
        assert "Traceback" not in authority.output
