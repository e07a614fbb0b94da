"""A trust domain of the authority over time; the clock is the test's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from uproxy.authority import CallingProcess, DomainDefinition, EntryDefinition
from uproxy.authority.domain import Domain
from uproxy.authority.jwt_keys import PUBLISH_FIRST
from uproxy.spiffe.encoding import split_der

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEB, ORDERS = "spiffe://example.org/web", "spiffe://example.org/orders"
ME = CallingProcess(pid=1, uid=1000, gid=100, path="/usr/bin/app")
BASE = DomainDefinition(
    "example.org",
    entries=(EntryDefinition(WEB, "web", uid=1000), EntryDefinition(ORDERS, uid=1000)),
    ttl=60,
    ca_ttl=3600,
)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def ids(domain: Domain, caller: CallingProcess = ME) -> list[str]:
    return [svid.spiffe_id for _, svid in domain.svids_for(caller)]


def leaf(domain: Domain, spiffe_id: str = WEB) -> x509.Certificate:
    return next(svid.leaf for _, svid in domain.svids_for(ME) if svid.spiffe_id == spiffe_id)


def roots(domain: Domain) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in split_der(domain.bundle)]


def revoked_serials(domain: Domain) -> set[int]:
    crls = [x509.load_der_x509_crl(der) for der in domain.crls]
    return {entry.serial_number for crl in crls for entry in crl}


class TestEntries:
    def test_a_caller_is_offered_what_selects_it_in_order(self) -> None:
        domain = Domain(BASE, NOW)

        assert ids(domain) == [WEB, ORDERS]
        assert ids(domain, replace(ME, uid=1)) == []

    def test_every_selector_given_must_fit(self) -> None:
        entry = EntryDefinition(WEB, uid=1000, gid=100, path="/usr/bin/app")
        domain = Domain(replace(BASE, entries=(entry,)), NOW)

        assert ids(domain) == [WEB]
        for other in ({"uid": 1}, {"gid": 1}, {"path": "/bin/sh"}, {"path": None}):
            assert ids(domain, replace(ME, **other)) == []

    def test_two_entries_for_one_identity_offer_it_once(self) -> None:
        entries = (EntryDefinition(WEB, "a", uid=1000), EntryDefinition(WEB, "b", gid=100))
        domain = Domain(replace(BASE, entries=entries), NOW)

        assert [entry.hint for entry, _ in domain.svids_for(ME)] == ["a"]
        assert [entry.hint for entry, _ in domain.svids_for(replace(ME, uid=1))] == ["b"]

    def test_added_and_removed_entries_take_effect(self) -> None:
        domain = Domain(replace(BASE, entries=BASE.entries[:1]), NOW)
        before = leaf(domain)

        domain.apply(BASE, NOW)
        assert ids(domain) == [WEB, ORDERS]
        assert leaf(domain) == before
        domain.apply(replace(BASE, entries=()), NOW)
        assert ids(domain) == []
        assert domain.due() > NOW


class TestRenewal:
    def test_an_svid_is_renewed_at_half_its_life(self) -> None:
        domain = Domain(BASE, NOW)
        first = leaf(domain)

        assert domain.due() == NOW + seconds(30)
        domain.tick(NOW + seconds(29))
        assert leaf(domain) == first
        domain.tick(NOW + seconds(30))
        assert leaf(domain) != first
        assert domain.due() == NOW + seconds(60)

    def test_renew_issues_all_anew(self) -> None:
        domain = Domain(BASE, NOW)
        before = leaf(domain), leaf(domain, ORDERS)

        domain.renew(NOW)

        assert {leaf(domain), leaf(domain, ORDERS)}.isdisjoint(before)

    def test_a_changed_life_takes_effect_at_once(self) -> None:
        domain = Domain(BASE, NOW)

        domain.apply(replace(BASE, ttl=10), NOW)

        assert leaf(domain).not_valid_after_utc == NOW + seconds(10)


class TestCaRotation:
    def test_the_new_root_is_published_before_it_signs(self) -> None:
        domain = Domain(BASE, NOW)
        (old,), before = roots(domain), leaf(domain)

        domain.rotate_ca(NOW)
        domain.tick(NOW)
        assert len(roots(domain)) == 2
        assert leaf(domain) == before
        assert domain.due() == NOW + PUBLISH_FIRST

        domain.tick(NOW + PUBLISH_FIRST)
        new = next(root for root in roots(domain) if root != old)
        leaf(domain).verify_directly_issued_by(new)

    def test_the_old_root_stays_until_its_last_svid_expired(self) -> None:
        domain = Domain(BASE, NOW)
        (old,) = roots(domain)
        domain.rotate_ca(NOW)
        domain.tick(NOW + PUBLISH_FIRST)

        domain.tick(NOW + seconds(59))
        assert old in roots(domain)
        domain.tick(NOW + seconds(60))
        assert old not in roots(domain)
        assert len(roots(domain)) == 1

    def test_another_number_in_the_definition_rotates(self) -> None:
        domain = Domain(BASE, NOW)

        domain.apply(replace(BASE, ca=2), NOW)
        assert len(roots(domain)) == 2
        domain.apply(replace(BASE, ca=2), NOW)
        assert len(roots(domain)) == 2

    def test_a_ca_is_replaced_at_half_its_life(self) -> None:
        domain = Domain(BASE, NOW)

        domain.tick(NOW + seconds(1800))

        assert len(roots(domain)) == 2

    def test_a_ca_whose_end_was_slept_through_is_replaced_at_once(self) -> None:
        domain = Domain(BASE, NOW)
        late = NOW + seconds(10 * 3600)

        domain.tick(late)

        (root,) = roots(domain)
        leaf(domain).verify_directly_issued_by(root)
        assert leaf(domain).not_valid_after_utc == late + seconds(60)

    def test_one_rotation_at_a_time(self) -> None:
        domain = Domain(BASE, NOW)

        domain.rotate_ca(NOW)
        domain.rotate_ca(NOW)

        assert len(roots(domain)) == 2


class TestRevocation:
    def test_a_revoked_identity_is_on_the_list_and_issued_no_more(self) -> None:
        domain = Domain(BASE, NOW)
        serial = leaf(domain).serial_number
        assert domain.crls == ()

        domain.apply(replace(BASE, revoke=(WEB,)), NOW)

        assert ids(domain) == [ORDERS]
        assert revoked_serials(domain) == {serial}

    def test_every_svid_of_it_that_has_not_expired_is_on_the_list(self) -> None:
        domain = Domain(BASE, NOW)
        first = leaf(domain).serial_number
        domain.tick(NOW + seconds(30))
        second = leaf(domain).serial_number

        domain.apply(replace(BASE, revoke=(WEB,)), NOW + seconds(31))
        assert revoked_serials(domain) == {first, second}
        domain.tick(NOW + seconds(60))
        assert revoked_serials(domain) == {second}
        domain.tick(NOW + seconds(90))
        assert domain.crls == ()

    def test_taken_off_the_list_of_revocations_it_gets_a_new_one_and_the_old_stays_bad(
        self,
    ) -> None:
        domain = Domain(BASE, NOW)
        serial = leaf(domain).serial_number
        domain.apply(replace(BASE, revoke=(WEB,)), NOW)

        domain.apply(BASE, NOW + seconds(1))

        assert leaf(domain).serial_number != serial
        assert revoked_serials(domain) == {serial}

    def test_the_list_is_signed_anew_before_it_is_stale(self) -> None:
        domain = Domain(BASE, NOW)
        domain.renew(NOW + seconds(29))
        domain.apply(replace(BASE, revoke=(WEB,)), NOW + seconds(29))
        (first,) = domain.crls

        domain.tick(NOW + seconds(59))
        (second,) = domain.crls

        assert first != second
        stale_at = x509.load_der_x509_crl(second).next_update_utc
        assert stale_at == NOW + seconds(59 + 60)

    def test_an_unchanged_list_is_not_signed_again(self) -> None:
        domain = Domain(BASE, NOW)
        domain.apply(replace(BASE, revoke=(WEB,)), NOW)
        before = domain.crls

        domain.tick(NOW + seconds(1))

        assert domain.crls == before

    def test_after_a_ca_rotation_each_issuer_has_its_own_list(self) -> None:
        domain = Domain(BASE, NOW)
        first = leaf(domain).serial_number
        domain.rotate_ca(NOW)
        domain.tick(NOW + PUBLISH_FIRST)
        second = leaf(domain).serial_number

        domain.apply(replace(BASE, revoke=(WEB,)), NOW + PUBLISH_FIRST)

        assert len(domain.crls) == 2
        assert revoked_serials(domain) == {first, second}
