"""What does it cost to know who calls?  `python -m benchmarks.proofs`.

Flow: the door of one destination decides about streams in this process, without an engine and
without a network: `InboundDoor.admit`, then `opened`, for a caller that connects directly, for one
by way of an L7 proxy whose word is enough, for one whose token has come before, and for one whose
token is new; with keys of the kinds that SPIRE and others use.  The median of `--rounds` rounds, in
microseconds of one processor for each stream.

Not measured: fetching tokens, Envoy, and what an engine does for a stream.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from time import process_time

from uproxy.accesslog import AccessRecord
from uproxy.config.settings import (
    IdentitySettings,
    InboundSettings,
    InboundTrustSettings,
    RuleFrom,
    RuleSettings,
    Settings,
)
from uproxy.connections import Connections
from uproxy.contract import SILENT, Arrival, PeerSvid, Route, Spoken
from uproxy.destinations import AllEndpoints
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.tokens import TokenAuthority
from uproxy.metrics import Metrics
from uproxy.model import Outcome, Role, TcpAddress, Transport
from uproxy.proxy.inbound import InboundDoor
from uproxy.proxy.services import Services
from uproxy.snapshot import Snapshot

_CA = Authority("example.org")
_OURS, _WEB, _L7 = (_CA.issue(f"/ns/{each}/sa/x") for each in ("orders", "web", "l7"))
_AT, _APP = TcpAddress("10.0.0.7", 15008), TcpAddress("10.0.0.7", 8080)
_STREAMS = 1000


class _NoLog:
    """An access log that wants nothing."""

    def wants(self, _outcome: Outcome) -> bool:
        return False

    def access(self, _record: AccessRecord) -> None: ...


def _door(signer: TokenAuthority, *, require_proof: bool) -> InboundDoor:
    trusted = InboundTrustSettings("l7", (_L7.spiffe_id,), ("spiffe://example.org/**",),
                                   require_proof)  # fmt: skip
    settings = Settings(
        IdentitySettings(),
        inbound=(InboundSettings("api", _AT, Transport.HBONE, ports=(_APP.port,)),),
        inbound_trust={"l7": trusted},
        authorization=(RuleSettings("all", "allow", RuleFrom(any=True, via=("direct", "l7"))),),
    )
    jwt = {"example.org": signer.bundle}
    bundles = {"example.org": _CA.bundle}
    snapshot = Snapshot.first(settings, Credentials(_OURS.svid, "", bundles, 1, jwt))
    metrics = Metrics()
    services = Services(Connections(snapshot, metrics, _NoLog()), AllEndpoints(), metrics)
    return InboundDoor(snapshot.applications["api"], snapshot, services)


def _peer(issued: Issued) -> PeerSvid:
    trust = Verifier(Credentials(None, "", {"example.org": _CA.bundle}, 1))
    return trust.verify(issued.der, Role.CLIENT, _CA.now)


def _measured(door: InboundDoor, peer: PeerSvid, spoken: Sequence[Spoken]) -> float:
    """Return the microseconds of one decision."""
    plan = door.tls()
    source = TcpAddress("10.0.0.9", 40000)
    arrivals = [
        Arrival(number, source, _AT, peer, plan, _APP, each, tunnel=0)  # type: ignore[arg-type]
        for number, each in enumerate(spoken, start=1)
    ]
    began = process_time()
    answers = [door.admit(each) for each in arrivals]
    spent = process_time() - began
    assert all(isinstance(each, Route) for each in answers), answers[0]
    return spent / len(arrivals) * 1e6


def _rows(signer: TokenAuthority) -> dict[str, Callable[[], float]]:
    believing, requiring = (_door(signer, require_proof=each) for each in (False, True))
    web, l7 = _peer(_WEB), _peer(_L7)
    named = Spoken((_WEB.spiffe_id,))

    def token(number: int) -> Spoken:
        made = signer.token("/ns/web/sa/x", _OURS.spiffe_id, claims={"jti": str(number)})
        return replace(named, proofs=(made,))

    known = token(0)
    fresh = iter(range(1, 1 << 30))
    return {
        "directly": lambda: _measured(believing, web, [SILENT] * _STREAMS),
        "via l7, believed": lambda: _measured(believing, l7, [named] * _STREAMS),
        "via l7, a token that has come before": lambda: _measured(
            requiring, l7, [known] * _STREAMS
        ),
        "via l7, a new token": lambda: _measured(
            requiring, l7, [token(next(fresh)) for _ in range(_STREAMS // 10)]
        ),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{'signed with':12} {'the caller comes':40} microseconds")
    for algorithm in ("ES256", "RS256"):
        for way, measure in _rows(TokenAuthority("example.org", algorithm)).items():
            measure()
            found = median(measure() for _ in range(rounds))
            print(f"{algorithm:12} {way:40} {found:12.1f}")


if __name__ == "__main__":
    main()
