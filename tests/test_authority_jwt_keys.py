"""The keys of tokens over time; the clock is the test's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from uproxy.authority.jwt_keys import PUBLISH_FIRST, JwtKeys
from uproxy.errors import UntrustedError
from uproxy.spiffe.jwt_bundles import JwtBundle, JwtKey
from uproxy.spiffe.jwt_svids import verify_jwt_svid

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEB = "spiffe://example.org/web"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def sign(keys: JwtKeys, now: datetime = NOW) -> str:
    return keys.sign(WEB, ("me", "you"), now, MINUTE)


def believed(keys: JwtKeys, token: str, now: datetime = NOW) -> bool:
    with contextlib.suppress(UntrustedError):
        return verify_jwt_svid(token, {"example.org": keys.bundle}, "me", now).spiffe_id == WEB
    return False


def believed_by(keys: Mapping[str, JwtKey], token: str) -> bool:
    bundles = {"example.org": JwtBundle("example.org", keys)}
    with contextlib.suppress(UntrustedError):
        return verify_jwt_svid(token, bundles, "me", NOW).spiffe_id == WEB
    return False


def test_a_token_is_valid_for_as_long_as_told() -> None:
    keys = JwtKeys("example.org", NOW, HOUR)
    found = verify_jwt_svid(sign(keys), {"example.org": keys.bundle}, "you", NOW)
    assert (found.spiffe_id, found.audience) == (WEB, ("me", "you"))
    assert found.expires == NOW + MINUTE


def test_a_new_key_is_published_before_it_signs() -> None:
    keys = JwtKeys("example.org", NOW, HOUR)
    before = keys.bundle.keys
    keys.rotate(NOW)
    keys.rotate(NOW)
    published = keys.bundle.keys
    assert len(published) == 2
    assert keys.due() == NOW + PUBLISH_FIRST
    keys.tick(NOW)
    assert believed_by(before, sign(keys))
    keys.tick(NOW + PUBLISH_FIRST)
    token = sign(keys)
    assert not believed_by(before, token)
    assert believed_by(published, token)


def test_an_old_key_stays_until_its_last_token_has_expired() -> None:
    keys = JwtKeys("example.org", NOW, HOUR)
    token = sign(keys)
    keys.rotate(NOW)
    now = NOW + PUBLISH_FIRST
    keys.tick(now)
    assert keys.due() == NOW + MINUTE
    assert believed(keys, token, NOW + MINUTE - timedelta(seconds=1))
    keys.tick(NOW + MINUTE)
    assert len(keys.bundle.keys) == 1
    assert not believed(keys, token, NOW)


def test_a_key_that_signed_nothing_goes_at_once() -> None:
    keys = JwtKeys("example.org", NOW, HOUR)
    keys.rotate(NOW)
    keys.tick(NOW + PUBLISH_FIRST)
    assert len(keys.bundle.keys) == 1


def test_a_key_is_replaced_at_half_its_life() -> None:
    keys = JwtKeys("example.org", NOW, HOUR)
    assert keys.due() == NOW + HOUR / 2
    keys.tick(NOW + HOUR / 2)
    assert len(keys.bundle.keys) == 2
    keys.tick(NOW + HOUR / 2 + PUBLISH_FIRST)
    assert keys.due() == NOW + HOUR


def test_the_bundle_has_no_private_half() -> None:
    assert b'"d"' not in JwtKeys("example.org", NOW, HOUR).jwks


@pytest.mark.parametrize("fraction", [0, 999_999])
def test_a_token_never_outlives_what_was_told(fraction: int) -> None:
    keys, now = JwtKeys("example.org", NOW, HOUR), NOW.replace(microsecond=fraction)
    found = verify_jwt_svid(sign(keys, now), {"example.org": keys.bundle}, "me", now)
    assert NOW < found.expires <= now + MINUTE
