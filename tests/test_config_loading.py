"""A whole configuration: what it becomes, and every mistake of it at once."""

from __future__ import annotations

import json
from ipaddress import ip_network
from types import MappingProxyType

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config import Settings, load_admin_listen
from uproxy.config.later import KEYS
from uproxy.config.settings import (
    AdminSettings,
    DestinationSettings,
    FilesIdentity,
    IdentitySettings,
    InboundSettings,
    LogSettings,
    OutboundSettings,
    RuleFrom,
    RuleSettings,
    RuleTo,
)
from uproxy.errors import ConfigError
from uproxy.model import (
    Limits,
    SystemdAddress,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    UnixAddress,
)

WHOLE = """
name: orders
identity:
  workload_api: unix:///run/spire/agent/public/api.sock
  spiffe_id: spiffe://Example.org/ns/web/sa/frontend
  on_expiry: close
inbound:
  - name: api
    listen: 0.0.0.0:8443
    transport: mtls
    to: 127.0.0.1:8080
    alpn: [h2]
    proxy_protocol: v2
  - {listen: "systemd:web", transport: plaintext, to: unix:///run/web.sock}
outbound:
  - {listen: 127.0.0.1:5432, to: orders-db}
  - {listen: unix:///run/uproxy/orders.sock, mode: "0600", owner: 1000, to: orders-db}
destinations:
  orders-db:
    addresses: [10.0.0.7:5432, db.internal:5432]
    transport: mtls
    identities: [spiffe://example.org/ns/db/sa/*]
    idle: 0
authorization:
  - name: web
    action: allow
    from: {identities: ["spiffe://example.org/**"], not_cidrs: [10.0.0.0/8]}
    to: {ports: [5432], inbound: [api]}
  - {action: deny, from: any, mode: shadow}
  - {action: deny}
on_policy_change: keep
tls: {min_version: 1.2}
limits: {connections: 10}
timeouts: {handshake: 500ms}
admin: {listen: unix:///run/admin.sock, metrics: null}
log: {level: debug, format: text, access: denied}
"""


def test_a_whole_file_becomes_settings() -> None:
    assert loaded(WHOLE) == Settings(
        name="orders",
        identity=IdentitySettings(
            workload_api=UnixAddress("/run/spire/agent/public/api.sock"),
            spiffe_id="spiffe://example.org/ns/web/sa/frontend",
            on_expiry="close",
        ),
        inbound=(
            InboundSettings(
                "api",
                TcpAddress("0.0.0.0", 8443),
                Transport.MTLS,
                TcpAddress("127.0.0.1", 8080),
                alpn=("h2",),
                proxy_protocol="v2",
            ),
            InboundSettings(
                "systemd:web",
                SystemdAddress("web"),
                Transport.PLAINTEXT,
                UnixAddress("/run/web.sock"),
            ),
        ),
        outbound=(
            OutboundSettings(TcpAddress("127.0.0.1", 5432), "orders-db"),
            OutboundSettings(
                UnixAddress("/run/uproxy/orders.sock"), "orders-db", mode=0o600, owner="1000"
            ),
        ),
        destinations=MappingProxyType(
            {
                "orders-db": DestinationSettings(
                    "orders-db",
                    (TcpAddress("10.0.0.7", 5432), TcpAddress("db.internal", 5432)),
                    Transport.MTLS,
                    ("spiffe://example.org/ns/db/sa/*",),
                    idle=0.0,
                )
            }
        ),
        authorization=(
            RuleSettings(
                "web",
                "allow",
                RuleFrom(
                    identities=("spiffe://example.org/**",),
                    not_cidrs=(ip_network("10.0.0.0/8"),),
                ),
                RuleTo(ports=(5432,), inbound=("api",)),
            ),
            RuleSettings("authorization[1]", "deny", RuleFrom(any=True), mode="shadow"),
            RuleSettings("authorization[2]", "deny", RuleFrom()),
        ),
        on_policy_change="keep",
        tls=TlsSettings(
            "1.2",
            groups=("X25519MLKEM768", "X25519", "P-256", "P-384", "P-521"),
            ciphers=(
                "TLS_AES_128_GCM_SHA256",
                "TLS_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-RSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-CHACHA20-POLY1305",
                "ECDHE-RSA-CHACHA20-POLY1305",
            ),
        ),
        limits=Limits(connections=10),
        timeouts=Timeouts(handshake=0.5),
        admin=AdminSettings(listen=UnixAddress("/run/admin.sock"), metrics=None),
        log=LogSettings("debug", "text", "denied"),
    )


def test_an_identity_is_all_a_file_needs() -> None:
    settings = loaded(FILES)
    assert settings == Settings(identity=settings.identity)
    assert settings.identity == IdentitySettings(
        files=FilesIdentity(
            "/etc/uproxy/svid.pem",
            "/etc/uproxy/key.pem",
            MappingProxyType({"example.org": "/etc/uproxy/bundle.pem"}),
        )
    )


def test_absolute_files_stay_where_they_are() -> None:
    text = "identity: {files: {svid: /s, key: k, bundles: {a.b: /b}, crls: [/c, d]}}"
    files = loaded(text).identity.files
    assert files is not None
    assert (files.svid, files.key, files.bundles["a.b"]) == ("/s", "/etc/uproxy/k", "/b")
    assert files.crls == ("/c", "/etc/uproxy/d")


def test_the_workload_api_defaults_to_the_standard_variable() -> None:
    environ = {"SPIFFE_ENDPOINT_SOCKET": "unix:///run/agent.sock"}
    for text in ("name: a", "identity: {on_expiry: close}"):
        settings = loaded(text, environ=environ)
        assert settings.identity.workload_api == UnixAddress("/run/agent.sock")
    assert loaded(FILES, environ=environ).identity.workload_api is None
    written = "identity: {workload_api: tcp://127.0.0.1:8000}"
    assert loaded(written, environ=environ).identity.workload_api == TcpAddress("127.0.0.1", 8000)


def test_a_wrong_standard_variable_is_named() -> None:
    mistake = only_mistake("name: a", environ={"SPIFFE_ENDPOINT_SOCKET": "/run/agent.sock"})
    assert mistake.path == "identity.workload_api"
    assert mistake.value == "/run/agent.sock"
    assert "from $SPIFFE_ENDPOINT_SOCKET" in mistake.reason


def test_admin_and_log_may_be_off() -> None:
    settings = loaded(FILES + "admin: null\nlog: null\n")
    assert settings.admin == AdminSettings(None, None, None)
    assert settings.log == LogSettings(level="error", access="none")


def test_every_mistake_is_told_at_once_in_file_order() -> None:
    text = FILES + (
        "nname: x\n"
        "inbound:\n"
        "  - {listen: 1.2.3.4, transport: tls, to: 127.0.0.1:80}\n"
        "  - {listen: 0.0.0.0:80, transport: mtls}\n"
        "outbound:\n"
        "  - {listen: 127.0.0.1:81, to: database}\n"
        "destinations:\n"
        "  databases: {addresses: [a:1], transport: mtls}\n"
        "timeouts: {idle: 5}\n"
        "limits: {connections: many}\n"
    )
    found = mistakes(text, overrides=["log.level=loud"])
    assert [(each.path, each.line, each.column) for each in found] == [
        ("nname", 2, 1),
        ("inbound[0].listen", 4, 14),
        ("inbound[0].transport", 4, 34),
        ("inbound[1].to", 5, 5),
        ("outbound[0].to", 7, 32),
        ("destinations.databases.identities", 9, 14),
        ("timeouts.idle", 10, 18),
        ("limits.connections", 11, 23),
        ("log.level", None, None),
    ]
    by_path = {each.path: each for each in found}
    assert by_path["nname"].nearest == "name"
    assert by_path["inbound[0].listen"].value == "1.2.3.4"
    assert by_path["outbound[0].to"].nearest == "databases"
    assert by_path["log.level"].value == "loud"
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("name: 5", "name", "put it in quotes"),
        ("name: true", "name", "put it in quotes"),
        ("name:", "name", "has no value"),
        ("name: [a]", "name", "must be text, not a list"),
        ("limits: {connections: '5'}", "limits.connections", "without quotes"),
        ("limits: {connections: 0}", "limits.connections", "at least 1"),
        ("limits: {connections: 1.5}", "limits.connections", "not a decimal number"),
        ("limits: []", "limits", "per_source_connections, not a list"),
        ("limits: off", "limits", "per_source_connections, not text"),
        ("timeouts: {idle: [1s]}", "timeouts.idle", "must be a duration"),
        ("on_policy_change: [keep]", "on_policy_change", "must be one of keep | close"),
        ("inbound: {listen: x}", "inbound", "not a mapping"),
        ("inbound: null", "inbound", "has no value"),
        ("destinations: [a]", "destinations", "not a list"),
        ("tls: {groups: []}", "tls.groups", "empty list"),
        ("tls: {groups: [X25519, X25519]}", "tls.groups[1]", "same as tls.groups[0]"),
        ("tls: {min_version: '1.1'}", "tls.min_version", "must be one of 1.2 | 1.3"),
        ("authorization: [{action: deny, from: all}]", "authorization[0].from", "any, or"),
    ],
)
def test_a_value_of_the_wrong_type_says_which_is_right(text: str, path: str, reason: str) -> None:
    mistake = only_mistake(FILES + text)
    assert mistake.path == path
    assert reason in mistake.reason


def test_a_bundle_needs_a_trust_domain() -> None:
    found = mistakes("identity: {files: {svid: s, key: k, bundles: {}}}")
    assert "is empty" in found[0].reason
    found = mistakes("identity: {files: {svid: s, key: k, bundles: {Exa mple: b}}}")
    assert found[0].path == 'identity.files.bundles["Exa mple"]'


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in KEYS.items() for key in keys]
)
@pytest.mark.parametrize("value", ["null", "{}", "true"])
def test_keys_of_coming_versions_say_so_and_the_way_out(section: str, key: str, value: str) -> None:
    record = f"{{{key}: {value}}}"
    text = {
        "": f"{key}: {value}",
        "inbound": f"inbound: [{record}]",
        "outbound": f"outbound: [{record}]",
        "destinations": f"destinations: {{d: {record}}}",
    }[section]
    mistake = only_mistake(FILES + text)
    assert "is not in this version yet; " in mistake.reason


@pytest.mark.parametrize("text", ["engine: cython"])
def test_values_of_coming_versions_say_so_and_the_way_out(text: str) -> None:
    assert "is not in this version yet; " in only_mistake(FILES + text).reason


def test_a_thousand_destinations_doors_and_rules_are_not_too_many() -> None:
    who = "spiffe://example.org/ns/shop/sa/*"
    document = {
        "outbound": [{"listen": f"127.0.0.1:{2000 + n}", "to": f"d{n}"} for n in range(1000)],
        "destinations": {
            f"d{n}": {
                "addresses": [f"10.{m}.{n // 250}.{n % 250}:5432" for m in range(4)],
                "transport": "mtls",
                "identities": [who],
            }
            for n in range(1000)
        },
        "authorization": [
            {
                "name": f"r{n}",
                "action": "allow",
                "from": {"identities": [who], "cidrs": ["10.0.0.0/8"]},
                "to": {"ports": [n + 1, n + 2]},
            }
            for n in range(1000)
        ],
    }
    settings = loaded(
        FILES + "\n".join(f"{key}: {json.dumps(value)}" for key, value in document.items())
    )
    assert len(settings.destinations) == len(settings.authorization) == len(settings.outbound)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("name: x\n", TcpAddress("127.0.0.1", 15000)),
        ("admin: {metrics: null}\n", TcpAddress("127.0.0.1", 15000)),
        ("admin: {listen: 127.0.0.1:16000, reddy: 1}\nnaem: x\ninbound: 7\n",
         TcpAddress("127.0.0.1", 16000)),
        ("admin: {listen: 'unix:///run/${NAME}/admin.sock'}\nname: ${UNKNOWN}\n",
         UnixAddress("/run/orders/admin.sock")),
        ("admin: {listen: null}\n", None),
        ("admin: null\n", None),
    ],
)  # fmt: skip
def test_the_admin_address_is_found_whatever_else_is_wrong(
    text: str, address: TcpAddress | UnixAddress | None
) -> None:
    assert load_admin_listen(text, environ={"NAME": "orders"}) == address


def test_the_environment_decides_about_the_admin_address_too() -> None:
    environ = {"UPROXY__ADMIN__LISTEN": "127.0.0.1:16001"}
    found = load_admin_listen("admin: {listen: 127.0.0.1:16000}", environ=environ)
    assert found == TcpAddress("127.0.0.1", 16001)


@pytest.mark.parametrize(
    "text", ["a: [", "admin: 7", "admin: {listen: nowhere}", "admin: {listen: '${UNKNOWN}'}"]
)
def test_an_admin_address_that_is_wrong_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError):
        load_admin_listen(text, environ={})
