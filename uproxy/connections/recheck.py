"""Whether an open connection may stay open under the snapshot in force.

`verdict` decides; `recheck` collects what it decides on.  It closes nothing.  Rules: a peer's whole
chain is verified again by `Verifier.recheck`; time alone is never distrust, and expiry has a
setting of its own; of several reasons distrust is reported first, then policy, then expiry.
Outbound, the destination's `identities` are the policy, inbound also what the door leads to; either
way, what is in clear may not stay where there is mutual TLS now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from uproxy.connections.expectation import expectation
from uproxy.connections.serving import unserved
from uproxy.contract import Arrival, Connection, OwnSvid, PeerSvid, Refusal
from uproxy.errors import UntrustedError
from uproxy.model import Direction, Outcome, Role, TcpAddress, Transport
from uproxy.policy import Caller, Decision, IpAddress, Target
from uproxy.snapshot import RecheckActions, Snapshot
from uproxy.speaking import Disbelief, Doubt

MAX_VERDICTS = 4096
"""How many chains' verdicts are kept in `Snapshot.verdicts`; one takes about 2 KiB."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What a door knows of a connection, beyond the engine's handle.  It is kept as long as the
    connection, so it refers to nothing of the snapshot: no key, no settings."""

    direction: Direction
    door: str
    transport: Transport
    own: OwnSvid | None
    """The SVID that we showed; None in plaintext."""
    target: Target | None
    """What rules see of the target; None outbound, where no rule applies."""
    port: int | None
    """The application's, or the destination's where it has only one."""
    destination: str | None = None
    """Outbound: its name.  None inbound, and where none was chosen."""
    told: tuple[str, ...] = ()
    """The SPIFFE IDs that the destination was to have one of, as an L7 proxy is told."""
    caller: Caller | None = None
    """For whom an L7 proxy connects, as was believed when it was admitted; None: the peer connects
    for itself."""

    def identity_of(self, connection: Connection) -> str | None:
        """Return the SPIFFE ID at the other end: that of the peer, or for whom it connects."""
        if self.caller is not None:
            return str(self.caller.identity)
        peer = connection.peer or connection.arrival.peer
        return None if peer is None else peer.spiffe_id


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a certificate of the handshake isn't trusted any more."""

    reason: str
    rule: str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What is true of a connection under the snapshot in force."""

    decision: Decision | None
    """The policy's; None where none applies."""
    distrust: Distrust | None
    not_after: datetime | None
    """When the first certificate of the handshake expires; None in plaintext."""


def verdict(findings: Findings, actions: RecheckActions, now: datetime) -> Refusal | None:
    """Return why the connection must be closed; None: it may stay."""
    distrust, decision, not_after = findings.distrust, findings.decision, findings.not_after
    if distrust is not None and actions.on_distrust == "close":
        return Refusal(Outcome.IDENTITY_DISTRUSTED, distrust.reason, distrust.rule)
    if decision is not None and not decision.allowed and actions.on_policy_change == "close":
        return Refusal(Outcome.POLICY_CHANGED, decision.reason, decision.rule)
    if not_after is not None and now > not_after and actions.on_expiry == "close":
        reason = f"a certificate of its handshake expired at {not_after.isoformat()}"
        return Refusal(Outcome.IDENTITY_EXPIRED, reason)
    return None


def recheck(
    snapshot: Snapshot, info: ConnectionInfo, connection: Connection, now: datetime
) -> Refusal | None:
    """Return why an open connection must be closed under `snapshot`; None: it may stay."""
    decision, distrust_of_caller = _decision(snapshot, info, connection)
    distrust = distrust_of(snapshot, info, connection.peer, now) or distrust_of_caller
    findings = Findings(decision, distrust, not_after(info, connection))
    return verdict(findings, snapshot.actions, now)


def caller_of(snapshot: Snapshot, arrival: Arrival) -> Caller | Disbelief:
    """Return what the policy sees of who calls, or why an L7 proxy isn't believed about it."""
    is_stream = arrival.tunnel is not None
    return snapshot.trust.caller(*_peer_of(arrival), arrival.spoken, is_stream=is_stream)


def _peer_of(arrival: Arrival) -> tuple[str | None, IpAddress | None]:
    """Return the SPIFFE ID and the address of who dialled in."""
    source = arrival.source.ip if isinstance(arrival.source, TcpAddress) else None
    return None if arrival.peer is None else arrival.peer.spiffe_id, source


def not_after(info: ConnectionInfo, connection: Connection) -> datetime | None:
    """Return when the first certificate of the connection's handshake expires; None in
    plaintext."""
    ends = [] if info.own is None else [info.own.not_after]
    ends += [] if connection.peer is None else [connection.peer.not_after]
    return min(ends, default=None)


def distrust_of(
    snapshot: Snapshot, info: ConnectionInfo, peer: PeerSvid | None, now: datetime
) -> Distrust | None:
    """Return why certificates of a handshake that was made under another snapshot aren't trusted
    under this one; None: they are."""
    return _distrust_of_peer(snapshot, info, peer, now) or _distrust_of_us(snapshot, info, now)


def _decision(
    snapshot: Snapshot, info: ConnectionInfo, connection: Connection
) -> tuple[Decision | None, Distrust | None]:
    """Return what the policy, or outbound the destination, says of the connection now, and whether
    the caller's trust domain is distrusted."""
    if info.target is None:
        return expectation(snapshot, info.destination, info.told, connection), None
    door = snapshot.applications.get(info.door)
    if not info.transport.is_mutual_tls and door is not None:
        transport = door.settings.transport_at(info.port)
        if transport.is_mutual_tls and info.port not in door.settings.migrate:
            reason = f"door {info.door} is {transport} now, and this connection is in clear"
            return Decision(False, None, reason), None
    arrival = connection.arrival
    gone = None if door is None else unserved(door.settings, info.target, arrival.local)
    if gone is not None:
        return Decision(False, None, gone), None
    is_stream = arrival.tunnel is not None
    caller = snapshot.trust.still(*_peer_of(arrival), info.caller, is_stream=is_stream)
    if isinstance(caller, Caller):
        return snapshot.policy.decide(caller, info.target), None
    if caller.doubt is Doubt.NO_BUNDLE and info.caller is not None:
        # the policy applies to it still, where what is distrusted is kept
        known = replace(info.caller, via=caller.name)
        distrust = Distrust(caller.reason, caller.rule)
        return snapshot.policy.decide(known, info.target), distrust
    return Decision(False, caller.rule, caller.reason), None


def _distrust_of_peer(
    snapshot: Snapshot, info: ConnectionInfo, peer: PeerSvid | None, now: datetime
) -> Distrust | None:
    if peer is None:
        return None
    role = Role.CLIENT if info.direction is Direction.INBOUND else Role.SERVER
    key, verifier = ((*peer.chain, peer.anchor), role), snapshot.verifier
    error = _remembered(snapshot, key, lambda: verifier.recheck(peer, role, now))
    return None if error is None else Distrust(str(error.reason), error.rule)


def _distrust_of_us(snapshot: Snapshot, info: ConnectionInfo, now: datetime) -> Distrust | None:
    own, current = info.own, snapshot.credentials.svid
    if own is None:
        return None
    if now <= own.not_after and (current is None or current.spiffe_id != own.spiffe_id):
        why = snapshot.credentials.reason or f"we are {current and current.spiffe_id} now"
        return Distrust(f"our SVID {own.spiffe_id} was withdrawn: {why}", None)
    verifier = snapshot.verifier
    error = _remembered(snapshot, (own.chain, None), lambda: verifier.recheck_own(own.chain))
    return None if error is None else Distrust(f"our own {error.reason}", error.rule)


def _remembered(
    snapshot: Snapshot, key: tuple[tuple[bytes, ...], Role | None], verify: Callable[[], None]
) -> UntrustedError | None:
    verdicts = snapshot.verdicts
    if key not in verdicts:
        if len(verdicts) >= MAX_VERDICTS:
            verdicts.clear()
        try:
            verify()
            verdicts[key] = None
        except UntrustedError as error:
            verdicts[key] = error.with_traceback(None)
    return verdicts[key]
