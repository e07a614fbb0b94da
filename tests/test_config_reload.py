"""What a reload would change, and what it can't."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded
from uproxy.config import Changes, changes
from uproxy.config.reload import RESTART_KEYS

DOORS = (
    FILES
    + """
inbound:
  - {name: api, listen: 0.0.0.0:1, transport: mtls, to: unix:///a}
outbound:
  - {listen: unix:///out, to: db, mode: "0600"}
destinations:
  db: {addresses: ['10.0.0.1:1'], transport: mtls, identities: ['spiffe://a.b/c']}
"""
)


def _changes(after: str, *overrides: str) -> Changes:
    return changes(loaded(DOORS), loaded(after, overrides=overrides))


def test_equal_configurations_have_no_changes() -> None:
    assert _changes(DOORS) == Changes((), ())


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("timeouts.idle=5m", ("timeouts.idle",)),
        ("limits.connections=5", ("limits.connections",)),
        ("tls.groups=[X25519]", ("tls.groups",)),
        ("log.level=debug", ("log.level",)),
        ("log=null", ("log.level", "log.access")),
        ("on_policy_change=keep", ("on_policy_change",)),
        ("identity.on_expiry=close", ("identity.on_expiry",)),
        ("authorization=[{action: allow, from: any}]", ("authorization",)),
        ("inbound[0].to=unix:///b", ("inbound",)),
        ("inbound[0].listen=0.0.0.0:2", ("inbound",)),
        ("destinations.db.idle=1s", ("destinations.db.idle",)),
        ("destinations.x={addresses: ['a:1'], transport: plaintext}", ("destinations.x",)),
    ],
)
def test_most_keys_follow_a_reload(override: str, keys: tuple[str, ...]) -> None:
    assert _changes(DOORS, override) == Changes(keys, ())


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("name=b", "name"),
        ("identity.files.svid=other.pem", "identity.files"),
        ("identity.spiffe_id=spiffe://a.b/c", "identity.spiffe_id"),
        ("identity.revocation_grace=1s", "identity.revocation_grace"),
        ("admin.listen=127.0.0.1:9", "admin.listen"),
        ("admin.metrics=null", "admin.metrics"),
        ("admin.ready=unix:///r", "admin.ready"),
    ],
)
def test_some_keys_need_a_restart_and_say_why(override: str, key: str) -> None:
    found = _changes(DOORS, override)
    assert found.keys == (key,)
    assert [each.path for each in found.restart] == [key]
    assert "restart" in found.restart[0].reason
    assert key in RESTART_KEYS


def test_another_source_of_identity_needs_a_restart() -> None:
    other = DOORS.replace(FILES, "identity: {workload_api: unix:///a, hint: x}\n")
    assert _changes(other).keys == ("identity.workload_api", "identity.files", "identity.hint")
    assert len(_changes(other).restart) == 3


def test_a_listen_address_that_overlaps_an_open_one_needs_a_restart() -> None:
    found = _changes(DOORS, "inbound[0].listen=127.0.0.1:1")
    assert found.keys == ("inbound",)
    assert [each.path for each in found.restart] == ["inbound[0].listen"]
    assert "overlaps 0.0.0.0:1" in found.restart[0].reason
    assert "restart" in found.restart[0].reason


def test_permissions_of_a_socket_that_stays_need_a_restart() -> None:
    found = _changes(DOORS, "outbound[0].mode=0660")
    assert [each.path for each in found.restart] == ["outbound[0].listen"]
    assert [each.path for each in _changes(DOORS, "outbound[0].owner=a").restart] == [
        "outbound[0].listen"
    ]
    at_path = DOORS.replace("0.0.0.0:1", "unix:///in")
    owned = changes(loaded(at_path), loaded(at_path, overrides=("inbound[0].owner=a",)))
    assert [each.path for each in owned.restart] == ["inbound[0].listen"]
    moved = _changes(DOORS, "outbound[0].mode=0660", "outbound[0].listen=unix:///other")
    assert moved == Changes(("outbound",), ())


def test_a_removed_destination_is_a_change() -> None:
    without = FILES + "inbound: [{name: api, listen: 0.0.0.0:1, transport: mtls, to: unix:///a}]"
    assert _changes(without) == Changes(("outbound", "destinations.db"), ())
