"""What each caller is told: the whole set, its own federation, and nothing without an entry."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from spiffe._proto import workload_pb2

from uproxy.authority import CallingProcess, Definition, DomainDefinition, EntryDefinition
from uproxy.authority.handout import DomainSet
from uproxy.spiffe.bundles import parse_bundle
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.workload_update import parse_svid_response

ME = CallingProcess(1, 1000, 100, None)
STRANGER = CallingProcess(1, 1, 1, None)
NOW = datetime.now(UTC).replace(microsecond=0)


def domain(name: str, *federates_with: str) -> DomainDefinition:
    entries = tuple(
        EntryDefinition(f"spiffe://{name}/{path}", path, uid=1000) for path in ("b", "a")
    )
    return DomainDefinition(name, entries, federates_with=federates_with)


DEFINITION = Definition(
    {
        "home.test": domain("home.test", "away.test"),
        "away.test": replace(domain("away.test"), intermediate=True),
        "other.test": domain("other.test"),
    }
)


def test_our_own_judge_accepts_the_message() -> None:
    world = DomainSet(DEFINITION, NOW)

    for name in world.domains:
        data = world.svids(name, ME)
        assert data is not None
        update = parse_svid_response(data)
        assert [str(svid.spiffe_id) for svid in update.svids] == [
            f"spiffe://{name}/b",
            f"spiffe://{name}/a",
        ]
        assert [svid.hint for svid in update.svids] == ["b", "a"]


def test_federation_goes_the_way_it_is_declared() -> None:
    world = DomainSet(DEFINITION, NOW)
    seen = {}

    for name in world.domains:
        data = world.svids(name, ME)
        assert data is not None
        seen[name] = set(parse_svid_response(data).bundles)

    assert seen == {
        "home.test": {"home.test", "away.test"},
        "away.test": {"away.test"},
        "other.test": {"other.test"},
    }


def test_the_bundles_alone_are_the_same() -> None:
    world = DomainSet(DEFINITION, NOW)

    svids, bundles = world.svids("home.test", ME), world.bundles("home.test", ME)

    assert svids is not None
    assert bundles is not None
    read = workload_pb2.X509BundlesResponse.FromString(bundles)
    roots = {SpiffeId.parse(key).trust_domain.name: der for key, der in read.bundles.items()}
    known = parse_svid_response(svids).bundles
    assert {name: parse_bundle(name, der).roots for name, der in roots.items()} == {
        name: bundle.roots for name, bundle in known.items()
    }


def test_who_matches_no_entry_gets_nothing() -> None:
    world = DomainSet(DEFINITION, NOW)

    assert world.svids("home.test", STRANGER) is None
    assert world.bundles("home.test", STRANGER) is None


def test_the_same_state_gives_the_same_bytes() -> None:
    world = DomainSet(DEFINITION, NOW)

    assert world.svids("home.test", ME) == world.svids("home.test", ME)


def test_revocations_of_the_federation_are_handed_out() -> None:
    world = DomainSet(DEFINITION, NOW)
    away = replace(DEFINITION.trust_domains["away.test"], revoke=("spiffe://away.test/a",))
    domains = {**DEFINITION.trust_domains, "away.test": away}

    world.apply(Definition(domains), NOW)

    for name, count in (("home.test", 1), ("away.test", 1), ("other.test", 0)):
        data = world.svids(name, ME)
        assert data is not None
        assert {len(one.crls) for one in parse_svid_response(data).bundles.values()} == {count}


def test_it_is_due_when_its_first_domain_is() -> None:
    domains = {**DEFINITION.trust_domains}
    domains["other.test"] = replace(domains["other.test"], ttl=10)
    world = DomainSet(Definition(domains), NOW)

    assert world.due() == NOW + timedelta(seconds=5)
    world.tick(world.due())
    assert world.due() == NOW + timedelta(seconds=10)
