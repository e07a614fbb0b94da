"""go-spiffe, a Workload API client nobody here wrote, against `uproxy authority`."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import find_go, peer
from uproxy.lab.waiting import wait_until

WEB = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"
BILLING = "spiffe://partner.test/ns/billing/sa/invoices"
STRANGER = "spiffe://stranger.test/ns/void/sa/nobody"


@pytest.fixture(scope="module")
def gospiffe() -> Path:
    try:
        find_go()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return peer("gospiffe")


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
        "stranger.test": {"entries": [entry(STRANGER)]},
    }


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[DevAuthority]:
    with DevAuthority(tmp_path, domains()) as running:
        yield running


class GoSpiffe(Process):
    """One gospiffe program; `said` is its lines so far."""

    def __init__(self, program: Path, folder: Path, *words: str | int) -> None:
        log = folder / f"gospiffe-{len(list(folder.iterdir()))}.log"
        super().__init__([program, *map(str, words)], log)

    def is_ready(self) -> bool:
        return bool(self.printed)

    @property
    def printed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines() if line.endswith("}")]


def test_it_gets_an_svid_it_can_verify(
    authority: DevAuthority, gospiffe: Path, tmp_path: Path
) -> None:
    for trust_domain, spiffe_id, hint, certificates in (
        ("example.org", WEB, "web", 1),
        ("partner.test", BILLING, "", 2),
    ):
        address = authority.endpoints[trust_domain]
        with GoSpiffe(gospiffe, tmp_path, "watch", address) as watching:
            first = watching.printed[0]

        del first["serial"]
        assert first == {
            "spiffe_id": spiffe_id,
            "hint": hint,
            "certificates": certificates,
            "roots": 1,
            "verified": True,
        }


def test_it_chooses_among_the_identities_it_is_offered(
    authority: DevAuthority, gospiffe: Path, tmp_path: Path
) -> None:
    address = authority.endpoints["example.org"]
    with GoSpiffe(gospiffe, tmp_path, "watch", address, ORDERS) as watching:
        assert watching.printed[0]["spiffe_id"] == ORDERS


def test_it_gets_the_bundles_of_the_federation(
    authority: DevAuthority, gospiffe: Path, tmp_path: Path
) -> None:
    address = authority.endpoints["example.org"]
    with GoSpiffe(gospiffe, tmp_path, "bundles", address) as watching:
        assert sorted(watching.printed[0]["trust_domains"]) == ["example.org", "partner.test"]


def said(gospiffe: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run([gospiffe, *words], capture_output=True, timeout=30, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_gets_a_token_that_it_believes_and_has_validated(
    authority: DevAuthority, gospiffe: Path
) -> None:
    home, away = authority.endpoints["example.org"], authority.endpoints["partner.test"]
    made = said(gospiffe, "token", home, ORDERS, BILLING, "another")
    assert (made["spiffe_id"], made["audience"]) == (ORDERS, [BILLING, "another"])
    judged = said(gospiffe, "validate", away, BILLING, made["token"])
    assert (judged["spiffe_id"], judged["claims"]["sub"]) == (ORDERS, ORDERS)
    assert "JW-6" in said(gospiffe, "validate", away, STRANGER, made["token"])["error"]


def test_it_sees_every_svid_renewed_at_half_its_life(
    authority: DevAuthority, gospiffe: Path, tmp_path: Path
) -> None:
    authority.define(domains(ttl="4s"))
    address = authority.endpoints["example.org"]
    with GoSpiffe(gospiffe, tmp_path, "watch", address) as watching:
        wait_until(lambda: len(watching.printed) >= 3, "two renewals")

        assert len({seen["serial"] for seen in watching.printed}) == len(watching.printed)
        assert all(seen["verified"] for seen in watching.printed)
        assert {seen["roots"] for seen in watching.printed} == {1}


def test_it_verifies_its_svid_at_every_step_of_a_ca_rotation(
    gospiffe: Path, tmp_path: Path
) -> None:
    with (
        DevAuthority(tmp_path, domains(ttl="4s")) as authority,
        GoSpiffe(gospiffe, tmp_path, "watch", authority.endpoints["example.org"]) as watching,
    ):
        authority.send(signal.SIGUSR1)
        wait_until(lambda: watching.printed[-1]["roots"] == 2, "the new root")
        wait_until(lambda: watching.printed[-1]["roots"] == 1, "the old root's end", timeout=20)

        assert all(seen["verified"] for seen in watching.printed)


def test_two_of_them_talk_over_mutual_tls_across_the_federation(
    authority: DevAuthority, gospiffe: Path, tmp_path: Path
) -> None:
    port = free_port()
    home, away = authority.endpoints["example.org"], authority.endpoints["partner.test"]
    with GoSpiffe(gospiffe, tmp_path, "serve", home, ORDERS, port, BILLING) as server:
        dialled = subprocess.run(
            [gospiffe, "dial", away, BILLING, str(port), ORDERS],
            capture_output=True, timeout=30, check=True,
        )  # fmt: skip

        assert json.loads(dialled.stdout) == {"server": ORDERS, "heard": "hello\n"}
        wait_until(lambda: {"caller": BILLING} in server.printed, "the caller's name")


def test_a_stranger_is_refused(authority: DevAuthority, gospiffe: Path, tmp_path: Path) -> None:
    port = free_port()
    home, nowhere = authority.endpoints["example.org"], authority.endpoints["stranger.test"]
    with GoSpiffe(gospiffe, tmp_path, "serve", home, ORDERS, port, STRANGER) as server:
        dialled = subprocess.run(
            [gospiffe, "dial", nowhere, STRANGER, str(port), ORDERS],
            capture_output=True, timeout=30, check=False,
        )  # fmt: skip

        assert dialled.returncode == 1
        assert "no X.509 bundle for trust domain" in json.loads(dialled.stdout)["error"]
        wait_until(lambda: "error" in server.printed[-1], "the server's refusal")
